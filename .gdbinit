# For gdb beside a QEMU that was started with -S -s: scripts/gdb.sh starts both.
# Connects, and knows the places of a boot: to32, torust, tofunction, tokernel; here16.
set confirm off
set pagination off
set architecture i386
# The name that the debug information has for the source tree.
set substitute-path /qboot-rs .
target remote :1234

# gdb knows no segments: in 16-bit code EIP is an offset from CS's base, which
# is 0xffff0000 after reset and 16 times CS later.
define here16
  set language c
  set $linear = ($cs == 0xf000 ? 0xffff0000 : $cs * 16) + (unsigned long) $eip
  # gdb itself would read the bytes as 32-bit code. 15 are the longest instruction.
  set $b = (unsigned char *) $linear
  eval "shell f=$(mktemp); printf '\\%03o\\%03o\\%03o\\%03o\\%03o\\%03o\\%03o\\%03o\\%03o\\%03o\\%03o\\%03o\\%03o\\%03o\\%03o' >$f; objdump -D -b binary -m i8086 --adjust-vma=0x%x $f | tail -n +8; rm $f", $b[0], $b[1], $b[2], $b[3], $b[4], $b[5], $b[6], $b[7], $b[8], $b[9], $b[10], $b[11], $b[12], $b[13], $b[14], $linear
  set language auto
end
document here16
Shows the next instructions of 16-bit code.
end

define to32
  thbreak boot32
  continue
end
document to32
Runs to the first 32-bit instruction.
end

define torust
  thbreak firmware::rust_main
  continue
end
document torust
Runs to the first Rust code. Software breakpoints in the F segment hold from here on.
end

# Generic functions have names that `break` does not take: their line is looked up.
python
def line_of(name):
    for line in gdb.execute("info functions -n " + name, to_string=True).splitlines():
        if line.startswith("File "):
            file = line[len("File "):-1]
        elif line[:1].isdigit():
            return file + ":" + line.split(":")[0]
    raise gdb.GdbError("no function " + name)
end

define tofunction
  python gdb.execute("thbreak " + line_of("$arg0"))
  continue
end
document tofunction
Runs to the next function whose name matches, such as `tofunction Kernel::load<`.
end

define tokernel
  thbreak firmware::rom::handoff::enter
  continue
end
document tokernel
Runs to the jump to the kernel; `print *handoff` tells where that goes.
end
