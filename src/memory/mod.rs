//! Memory: what may be touched ([`window`]), and the map with its claims ([`map`]).

pub mod map;
pub mod window;
