/// What a packed safetensors file calls its format.
pub(crate) const FORMAT: &str = "dsconv-model";
/// The version of the format that is written and read.
pub(crate) const VERSION: u64 = 1;
