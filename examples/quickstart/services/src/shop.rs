//! The three services written in Rust, and those of other examples: `echo`, `inbox`, `ledger`, `payments`,
//! `stock` and the steps of `fulfilment`. The fourth of the shop, `inventory`, is written in Go.

pub mod customers;
pub mod echo;
pub mod fulfilment;
pub mod inbox;
pub mod ledger;
pub mod orders;
pub mod payments;
pub mod stock;
pub mod web;
