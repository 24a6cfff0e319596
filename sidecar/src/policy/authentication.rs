//! Who calls on behalf of whom: the tokens of end users.

pub mod jwt;
