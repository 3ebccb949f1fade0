//! Memory: which of it may be touched ([`window`]), and who has what of it
//! ([`map`]).

pub mod map;
pub mod window;
