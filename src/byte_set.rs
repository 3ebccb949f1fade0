//! A set of numbers from 0 to 255: PCI buses, APIC ids, interrupt inputs.

/// A set of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteSet {
    words: [u32; 8],
    highest: u8,
}

impl ByteSet {
    /// Adds `number`; `true` if it is new.
    pub fn insert(&mut self, number: u8) -> bool {
        let is_new = !self.contains(number);
        if let Some(word) = self.words.get_mut(usize::from(number >> 5)) {
            *word |= 1 << (number & 31);
        }
        self.highest = self.highest.max(number);
        is_new
    }

    /// Whether it is in the set.
    #[must_use]
    pub fn contains(&self, number: u8) -> bool {
        self.words
            .get(usize::from(number >> 5))
            .is_some_and(|word| word & 1 << (number & 31) != 0)
    }

    /// The next higher number in the set.
    #[must_use]
    pub fn after(&self, number: u8) -> Option<u8> {
        let mut next = number;
        while next < self.highest {
            next += 1;
            if self.contains(next) {
                return Some(next);
            }
        }
        None
    }

    /// The numbers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=self.highest).filter(|number| self.contains(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_number_is_new_once_and_found_in_order() {
        let mut set = ByteSet::default();
        let numbers = [255, 0, 31, 32, 128, 31];
        let new = numbers.map(|number| set.insert(number));
        assert_eq!(new, [true, true, true, true, true, false]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 31, 32, 128, 255]);
        assert_eq!([0, 31, 254].map(|n| set.after(n)), [31, 32, 255].map(Some));
        assert_eq!(set.after(255), None);
        assert!(!set.contains(1) && !ByteSet::default().contains(0));
    }
}
