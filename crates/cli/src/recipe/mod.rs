//! The recipes of `dsconv distill` and `dsconv train`: their keys, what they name, and their mistakes, pointed at in the
//! config file.
mod faults;
mod named;
mod of_distill;
mod of_train;

pub use faults::run_error;
pub use of_distill::{DistillInputs, DistillRecipe, rule_error};
pub use of_train::{TrainInputs, TrainRecipe};

#[cfg(test)]
pub use of_distill::DistillData;
