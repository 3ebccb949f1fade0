/*
 * INT 10h: a teletype with a cursor. Functions 1Ah and 12h do not answer in AL
 * and BL, which means no VGA and no EGA.
 */
int10:  cmpb    $0x0e, %ah
        je      teletype
        cmpb    $0x09, %ah
        je      draw
        cmpb    $0x0a, %ah
        je      draw
        cmpb    $0x13, %ah
        je      string
        cmpb    $0x02, %ah
        je      set_cursor
        cmpb    $0x03, %ah
        je      get_cursor
        cmpb    $0x0f, %ah
        je      get_mode
        cmpb    $0x4f, %ah
        jne     1f
        movw    $0x0100, %ax            /* VESA: not supported, failed */
1:      iretw

set_cursor:
        pushw   %ds
        pushw   $BDA
        popw    %ds
        movw    %dx, CURSOR
        movb    $0, DRAWN
        popw    %ds
        iretw
get_cursor:
        pushw   %ds
        pushw   $BDA
        popw    %ds
        movw    CURSOR, %dx
        movw    $0x0607, %cx
        popw    %ds
        iretw
get_mode:
        movw    $COLUMNS << 8 | 3, %ax
        movb    $0, %bh
        iretw

/*
 * Draws a character without moving the cursor. Some programs draw one with an
 * attribute and then print it; it is shown once.
 */
draw:   cmpw    $1, %cx
        jne     1f                      /* an area is cleared */
        call    put
        pushw   %ds
        pushw   $BDA
        popw    %ds
        movb    %al, DRAWN
        popw    %ds
1:      iretw

teletype:
        call    type
        iretw
type:   pushw   %ds
        pushw   $BDA
        popw    %ds
        cmpb    %al, DRAWN
        movb    $0, DRAWN
        je      1f
        call    put
1:      cmpb    $'\r', %al
        je      2f
        cmpb    $'\n', %al
        je      3f
        cmpb    $' ', %al
        jb      4f
        incb    CURSOR
        cmpb    $COLUMNS, CURSOR
        jb      4f
        movb    $0, CURSOR
        jmp     3f
2:      movb    $0, CURSOR
        jmp     4f
3:      cmpb    $ROWS - 1, CURSOR + 1
        jae     4f
        incb    CURSOR + 1
4:      popw    %ds
        retw

string: pushaw
        jcxz    3f
        movw    %ax, %dx
1:      movb    %es:(%bp), %al
        incw    %bp
        testb   $2, %dl                 /* attributes between characters */
        jz      2f
        incw    %bp
2:      call    type
        loop    1b
3:      popaw
        iretw
