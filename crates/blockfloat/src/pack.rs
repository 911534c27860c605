//! Packs codes into a little-endian bit stream of two's complement fields.
//!
//! Code `i` occupies bits `i*b .. (i+1)*b` of the stream, lowest bit first; bit `k` of the stream is bit `k % 8`
//! (value `1 << (k % 8)`) of byte `k / 8`. So 8 codes fill exactly `b` bytes. The bits after the last code are zero.
use crate::{Bits, Error};

/// Returns the number of bytes that `count` packed codes take, `ceil(count * bits / 8)`; it does not overflow.
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
    let mut codes = vec![0; count];
    let (whole, rest) = codes.as_chunks_mut::<8>();
    let (bytes, last) = bytes.split_at(whole.len() * width);
    match width {
        2 => unpack_whole::<2>(bytes, whole),
        3 => unpack_whole::<3>(bytes, whole),
        4 => unpack_whole::<4>(bytes, whole),
        5 => unpack_whole::<5>(bytes, whole),
        6 => unpack_whole::<6>(bytes, whole),
        7 => unpack_whole::<7>(bytes, whole),
        _ => unpack_whole::<8>(bytes, whole),
    }
    let mut word = [0; 8];
    word[..last.len()].copy_from_slice(last);
    let word = u64::from_le_bytes(word);
    rest.iter_mut().enumerate().for_each(|(i, c)| *c = field(word, i, width));
    if word >> (rest.len() * width) != 0 {
        return Err(Error::PackedPadding);
    }
    Ok(codes)
}

/// Reads whole groups of eight codes: eight codes of `W` bits are `W` bytes.
fn unpack_whole<const W: usize>(bytes: &[u8], codes: &mut [[i8; 8]]) {
    for (codes, bytes) in codes.iter_mut().zip(bytes.as_chunks::<W>().0) {
        let mut word = [0; 8];
        word[..W].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        *codes = std::array::from_fn(|i| field(word, i, W));
    }
}

/// Reads field `i` of a word. It is moved to the top of a byte and back down, since the shift of an i8 extends the sign.
fn field(word: u64, i: usize, width: usize) -> i8 {
    (((word >> (i * width)) << (8 - width)) as i8) >> (8 - width)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(bits: u8) -> Bits {
        Bits::new(bits).unwrap()
    }

    #[test]
    fn four_bit_codes_are_nibbles_low_first() {
        // 1 = 0001 low, -8 = 1000 high: 0x81. 7 = 0111 low, padding 0: 0x07.
        assert_eq!(pack(&[1, -8, 7], bits(4)), [0x81, 0x07]);
    }

    #[test]
    fn three_bit_codes_cross_bytes() {
        // Fields 101, 010, 110 (-3, 2, -2), lowest first: ...110 010 101 = 0b1_1001_0101.
        assert_eq!(pack(&[-3, 2, -2], bits(3)), [0b1001_0101, 0b1]);
        assert_eq!(unpack(&[0b1001_0101, 0b1], bits(3), 3).unwrap(), [-3, 2, -2]);
    }

    #[test]
    fn wrong_lengths_are_refused_before_anything_is_allocated() {
        assert_eq!(unpack(&[0; 2], bits(4), 5), Err(Error::Length { what: "packed codes", expected: 3, found: 2 }));
        assert!(matches!(unpack(&[0; 4], bits(4), 5), Err(Error::Length { .. })));
        assert!(matches!(unpack(&[], bits(8), usize::MAX), Err(Error::Length { .. })));
        assert_eq!(unpack(&[], bits(5), 0), Ok(vec![]));
    }

    #[test]
    fn set_padding_bits_are_refused() {
        // 3 codes of 4 bits leave the top nibble of the second byte.
        assert_eq!(unpack(&[0x81, 0x17], bits(4), 3), Err(Error::PackedPadding));
        assert_eq!(unpack(&[0x81, 0x80], bits(4), 3), Err(Error::PackedPadding));
    }

    #[test]
    #[should_panic(expected = "code 2 does not fit 2 bits")]
    fn codes_too_wide_for_their_field_panic() {
        pack(&[2], bits(2));
    }

    proptest! {
        #[test]
        fn unpacking_gives_back_the_codes(width in 2u8..=8, raw in prop::collection::vec(any::<i8>(), 0..200)) {
            let codes: Vec<i8> = raw.iter().map(|c| c >> (8 - width)).collect();
            let bytes = pack(&codes, bits(width));
            prop_assert_eq!(bytes.len(), (codes.len() * usize::from(width)).div_ceil(8));
            prop_assert_eq!(unpack(&bytes, bits(width), codes.len()).unwrap(), codes);
        }

        #[test]
        fn hostile_bytes_never_panic(
            width in 2u8..=8, bytes in prop::collection::vec(any::<u8>(), 0..64), count in 0usize..600,
        ) {
            if let Ok(codes) = unpack(&bytes, bits(width), count) {
                prop_assert_eq!(pack(&codes, bits(width)), bytes);
            }
        }
    }
}
