//! Guides: documentation alone, also for those who use the command `dsconv` and no Rust.

#[doc = include_str!("guide/start.md")]
pub mod start {}

#[doc = include_str!("guide/networks.md")]
pub mod networks {}

#[doc = include_str!("guide/accuracy.md")]
pub mod accuracy {}

#[doc = include_str!("guide/deploy.md")]
pub mod deploy {}

#[doc = include_str!("guide/format.md")]
pub mod format {}

#[doc = include_str!("guide/security.md")]
pub mod security {}

#[doc = include_str!("guide/compare.md")]
pub mod compare {}

#[doc = include_str!("guide/inside.md")]
pub mod inside {}
