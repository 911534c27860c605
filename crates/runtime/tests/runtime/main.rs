//! The engine against the reference.
mod networks;
mod ops;
mod plain;
mod problem;
