//! The three services written in Rust, and `echo`, which other examples look through. The fourth of
//! the shop, `inventory`, is written in Go.

pub mod customers;
pub mod echo;
pub mod orders;
pub mod web;
