//! Compares the zoo with torchvision: names, shapes, sizes, logits and files.
mod checkpoints;
mod parameters;
mod parity;
mod plain;
