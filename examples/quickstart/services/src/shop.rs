//! The three services written in Rust. The fourth, `inventory`, is written in Go.

pub mod customers;
pub mod orders;
pub mod web;
