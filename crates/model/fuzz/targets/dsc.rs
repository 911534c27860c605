//! Reads forged `.dsc` files, and runs those that are accepted. See ../README.md.
#![no_main]

use std::sync::OnceLock;

use blockfloat::SplitMix64;
use model::{Float, SaveOptions, dsc};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

#[path = "../../tests/forge/mod.rs"]
mod forge;
mod engine;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = dsc::File::parse(data) else { return };
    for layer in file.layers() {
        let _ = file.layer(&layer.node);
    }
    let Ok(model) = file.to_model() else { return };
    // The model is valid, and reading it again from a new file gives the same model.
    model.check().expect("a model that was read is valid");
    let options = dsc::Options { floats: SaveOptions::EXACT, pair: file.pair().cloned() };
    let again = dsc::write(&model, &options).expect("a model that was read can be written");
    assert!(dsc::File::parse(&again).unwrap().to_model().unwrap() == model);
    // A file without half precision is written as the same bytes.
    let half = |stored: dsc::StoredScales| stored == dsc::StoredScales::F16;
    if !file.layers().iter().any(|layer| half(layer.scales)) && !data.windows(5).any(|w| w == b"\"f16\"") {
        assert!(again == data);
    }
    let options = dsc::Options { floats: SaveOptions { floats: Float::F16, scale_precision: Float::F16 }, pair: None };
    let halved = dsc::write(&model, &options).expect("a model that was read can be rounded");
    dsc::File::parse(&halved).unwrap().to_model().unwrap();
    engine::check(&model);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random(SplitMix64::new(u64::from(seed) << 32 | 0x9e37_79b9));
    let mut parts = forge::split(&data[..size]).unwrap_or_default();
    if parts.is_empty() || random.below(200) == 0 {
        static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
        let seeds = SEEDS.get_or_init(forge::seeds);
        parts = forge::split(&seeds[random.below(seeds.len())]).expect("a seed");
    }
    let mut bytes = match random.below(16) {
        // Any bytes change below, header and table included.
        0..3 => data[..size].to_vec(),
        3 => {
            let (i, j) = (random.below(parts.len()), random.below(parts.len()));
            parts.swap(i, j);
            forge::join(&parts)
        }
        4 => {
            let i = random.below(parts.len());
            if random.below(2) == 0 { drop(parts.remove(i)) } else { parts.push(parts[i].clone()) }
            forge::join(&parts)
        }
        5..11 => {
            mutate_text(&mut parts[0].2, &mut random);
            forge::join(&parts)
        }
        _ => {
            let i = random.below(parts.len());
            let part = &mut parts[i].2;
            let len = part.len();
            part.resize(len + random.below(2) * random.below(32), 0);
            let longest = part.len();
            let len = if longest == 0 { 0 } else { fuzzer_mutate(part, len.min(longest), longest) };
            part.truncate(len);
            forge::join(&parts)
        }
    };
    if bytes.len() > max_size {
        bytes.truncate(max_size);
    }
    data[..bytes.len()].copy_from_slice(&bytes);
    let mut len = bytes.len();
    if random.below(16) < 3 {
        len = fuzzer_mutate(data, len, max_size);
    }
    // Most files get right checksums, or the checks after them would not be reached.
    if random.below(20) > 0 {
        forge::seal(&mut data[..len]);
    }
    len
});

/// Changes JSON so that it mostly stays JSON: a number, a word, or a piece of it moved or doubled.
fn mutate_text(text: &mut Vec<u8>, random: &mut Random) {
    const NUMBERS: [&str; 22] = [
        "0", "1", "2", "3", "4", "5", "7", "8", "9", "16", "127", "255", "65536", "4294967295", "4294967296",
        "4611686018427387904", "9223372036854775807", "18446744073709551615", "-1", "1e308", "0.5", "null",
    ];
    const WORDS: [&str; 18] = [
        "true", "false", "null", "\"f16\"", "\"f32\"", "\"two_level\"", "\"pixel\"", "\"pow2\"", "\"float\"", "\"relu\"",
        "\"affine\"", "\"softmax\"", "\"flatten\"", "\"add\"", "\"batch_norm2d\"", "[]", "{}", "\"\"",
    ];
    if text.is_empty() {
        return;
    }
    let at = random.below(text.len());
    match random.below(8) {
        0..4 => {
            // The next number is replaced.
            let Some(start) = text[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { return };
            let end = text[start..].iter().position(|b| !b.is_ascii_digit()).map_or(text.len(), |i| start + i);
            text.splice(start..end, NUMBERS[random.below(NUMBERS.len())].bytes());
        }
        4 => {
            // The next value after a colon is replaced.
            let Some(start) = text[at..].iter().position(|&b| b == b':').map(|i| at + i + 1) else { return };
            let end = text[start..].iter().position(|b| b",}]".contains(b)).map_or(text.len(), |i| start + i);
            text.splice(start..end, WORDS[random.below(WORDS.len())].bytes());
        }
        5 => {
            // A piece between commas is doubled, removed or moved.
            let end = text[at..].iter().position(|&b| b == b',').map_or(text.len(), |i| at + i);
            let piece: Vec<u8> = text[at..end].to_vec();
            let to = random.below(text.len());
            match random.below(3) {
                0 => drop(text.drain(at..end)),
                1 => drop(text.splice(at..at, piece)),
                _ => drop(text.splice(to..to, piece)),
            }
        }
        _ => {
            let len = text.len();
            text.resize(len + 8, b' ');
            let longest = text.len();
            let len = fuzzer_mutate(text, len, longest);
            text.truncate(len);
        }
    }
}

struct Random(SplitMix64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }
}
