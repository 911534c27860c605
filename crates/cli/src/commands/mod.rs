//! What the commands do, one module each. They take plain values, so that one can call another.
pub mod analyze;
pub mod bench;
pub mod compare;
pub mod config;
pub mod data;
pub mod distill;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod fitted;
pub mod inspect;
pub mod models;
pub mod predict;
pub mod quantize;
pub mod sweep;
pub mod train;
pub mod verify;
