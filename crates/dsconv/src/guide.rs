//! Guides: documentation alone, also for those who use the command `dsconv` and no Rust.

#[doc = include_str!("guide/networks.md")]
pub mod networks {}

#[doc = include_str!("guide/accuracy.md")]
pub mod accuracy {}

#[doc = include_str!("guide/inside.md")]
pub mod inside {}
