//! Guides: documentation alone, also for those who use the command `dsconv` and no Rust.

#[doc = include_str!(concat!(env!("OUT_DIR"), "/start.md"))]
pub mod start {}

#[doc = include_str!(concat!(env!("OUT_DIR"), "/networks.md"))]
pub mod networks {}

#[doc = include_str!(concat!(env!("OUT_DIR"), "/accuracy.md"))]
pub mod accuracy {}

#[doc = include_str!(concat!(env!("OUT_DIR"), "/deploy.md"))]
pub mod deploy {}

#[doc = include_str!(concat!(env!("OUT_DIR"), "/format.md"))]
pub mod format {}

#[doc = include_str!(concat!(env!("OUT_DIR"), "/security.md"))]
pub mod security {}

#[doc = include_str!(concat!(env!("OUT_DIR"), "/compare.md"))]
pub mod compare {}

#[doc = include_str!(concat!(env!("OUT_DIR"), "/inside.md"))]
pub mod inside {}
