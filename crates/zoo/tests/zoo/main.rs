//! The zoo against torchvision: names, shapes, sizes, logits and files.
mod checkpoints;
mod parameters;
mod parity;
mod plain;
