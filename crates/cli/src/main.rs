//! The dsconv command
fn main() {}
