//! Codes as bits: a little-endian stream of two's complement fields.
//!
//! Code `i` occupies bits `i*b .. (i+1)*b` of the stream, lowest bit first; bit `k` of the stream is bit `k % 8`
//! (value `1 << (k % 8)`) of byte `k / 8`. So 8 codes fill exactly `b` bytes. The bits after the last code are zero.
use crate::{Bits, Error};

/// Bytes that `count` packed codes take: `ceil(count * bits / 8)`, computed without overflow.
pub const fn packed_len(count: usize, bits: Bits) -> usize {
    let bits = bits.get() as usize;
    count / 8 * bits + (count % 8 * bits).div_ceil(8)
}

/// Packs codes into a little-endian bit stream: code `i` is the `bits`-bit two's complement field at bits
/// `i*bits .. (i+1)*bits`, where bit `k` is bit `k % 8` of byte `k / 8`. Bits after the last code are zero.
///
/// # Panics
/// If a code does not fit `bits`; the codes of [`QuantizedWeights`](crate::QuantizedWeights) always do.
pub fn pack(codes: &[i8], bits: Bits) -> Vec<u8> {
    let (lo, hi) = (bits.signed_min(), bits.signed_max());
    let width = usize::from(bits.get());
    let mask = (1u64 << width) - 1;
    let mut bytes = Vec::with_capacity(packed_len(codes.len(), bits));
    for chunk in codes.chunks(8) {
        let mut word = 0u64;
        for (i, &code) in chunk.iter().enumerate() {
            assert!((lo..=hi).contains(&i32::from(code)), "code {code} does not fit {bits} bits");
            word |= (code as u64 & mask) << (i * width);
        }
        bytes.extend_from_slice(&word.to_le_bytes()[..packed_len(chunk.len(), bits)]);
    }
    bytes
}

/// Reads `count` codes of a stream written by [`pack`].
///
/// # Errors
/// [`Error::Length`] where `bytes` is not exactly [`packed_len`] long (checked before anything is allocated),
/// [`Error::PackedPadding`] where a bit after the last code is set.
pub fn unpack(bytes: &[u8], bits: Bits, count: usize) -> Result<Vec<i8>, Error> {
    crate::error::check_len("packed codes", packed_len(count, bits), bytes.len())?;
    let width = usize::from(bits.get());
    let mut codes = Vec::with_capacity(count);
    for chunk in bytes.chunks(width) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let mut word = u64::from_le_bytes(word);
        for _ in 0..(count - codes.len()).min(8) {
            // Moves the field to the top of a byte and back down: the shift of an i8 extends the sign.
            codes.push(((word << (8 - width)) as i8) >> (8 - width));
            word >>= width;
        }
        if word != 0 {
            return Err(Error::PackedPadding);
        }
    }
    Ok(codes)
}
