//! Operations that the zoo does not have, and what a model refuses.
