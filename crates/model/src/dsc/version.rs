/// The first 8 bytes of every file.
pub const MAGIC: [u8; 8] = *b"\x89DSC\r\n\x1a\n";
/// The version of the format that is written and read.
pub const VERSION: u32 = 1;
