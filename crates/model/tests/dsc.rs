//! Forged `.dsc` files and the memory that reading them takes, and a reader in another language.
#![allow(missing_docs)]

use std::process::Command;
use std::sync::Mutex;

use model::Model;
use model::dsc::{DscError, File};
use peak_alloc::PeakAlloc;

mod forge;

use forge::{Part, join, model, seal, seeds, split};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory is counted for the whole process, so tests that count it run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Reads a whole file; returns the result, and the most bytes of memory that reading added.
fn read(bytes: &[u8]) -> (Result<Model, DscError>, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = File::parse(bytes).and_then(|file| file.to_model());
    (result, MEMORY.peak_usage().saturating_sub(before))
}

/// Replaces text of the metadata and repairs the checksums.
fn with_text(seed: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut parts = split(seed).unwrap();
    let text = String::from_utf8(parts[0].2.clone()).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    parts[0].2 = text.replacen(from, to, 1).into_bytes();
    join(&parts)
}

fn with_parts(seed: &[u8], change: impl FnOnce(&mut Vec<Part>)) -> Vec<u8> {
    let mut parts = split(seed).unwrap();
    change(&mut parts);
    join(&parts)
}

/// Changes bytes and repairs the checksums.
fn with_bytes(seed: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = seed.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    seal(&mut file);
    file
}

/// Returns hostile files with their names and the errors they give.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let [float, half, two_level, _] = seeds().try_into().unwrap();
    let u32s = |n: u32| n.to_le_bytes().to_vec();
    let u64s = |n: u64| n.to_le_bytes().to_vec();
    let huge = 1u64 << 62;
    // The sections are metadata, conv1, grouped, fc, floats, and in `half` also logits.
    let start = |file: &[u8], section: usize| {
        let at = 64 + 32 * section + 8;
        u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize
    };
    let end = |file: &[u8], section: usize| {
        let at = 64 + 32 * section + 16;
        start(file, section) + u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize
    };
    let mut files = vec![
        ("empty", vec![], "header, byte 0: not a .dsc file"),
        (
            "another format",
            b"PK\x03\x04 and so on, long enough for a header of 64 bytes, padded".to_vec(),
            "header, byte 0: not a .dsc file",
        ),
        ("header cut", float[..40].to_vec(), "header, byte 40: the file has 40 bytes, 64 are due"),
        ("later version", with_bytes(&float, 8, &u32s(2)), "header, byte 8: version 2: this reads version 1"),
        ("file cut", float[..float.len() - 64].to_vec(), "header, byte 16: the file has"),
        ("a byte more", [&float[..], &[0]].concat(), "header, byte 16: the file has"),
        (
            "most sections",
            with_bytes(&float, 12, &u32s(u32::MAX)),
            "header, byte 12: 4294967295 sections: at most 16387 are allowed",
        ),
        ("many sections", with_bytes(&float, 12, &u32s(16_000)), "section table, byte"),
        ("one section less", with_bytes(&float, 12, &u32s(4)), "section table, byte 72: a section's offset is"),
        ("no section", join(&[]), "header, byte 12: the number of sections is 0, 1 is due"),
        ("header not zero", with_bytes(&float, 63, &[1]), "header, byte 63: a byte that must be 0 is not"),
        (
            "huge offset",
            with_bytes(&float, 64 + 8, &u64s(u64::MAX - 63)),
            "section table, byte 72: a section's offset is",
        ),
        ("huge length", with_bytes(&float, 64 + 16, &u64s(u64::MAX)), "section table, byte 80: a section's length is"),
        (
            "a section over another",
            with_bytes(&float, 64 + 32 + 8, &u64s(start(&float, 0) as u64)),
            "section table, byte 104: a section's offset is",
        ),
        (
            "a hole",
            with_bytes(&float, 64 + 32 + 8, &u64s(start(&float, 1) as u64 + 64)),
            "section table, byte 104: a section's offset is",
        ),
        ("hidden in the padding", with_bytes(&float, end(&float, 0), &[7]), "padding, byte"),
        ("another kind", with_bytes(&float, 64, &u32s(9)), "section table, byte 64: a section's kind is 9, 1 is due"),
        (
            "layers swapped",
            with_parts(&float, |p| p.swap(1, 2)),
            "section table, byte 100: a section's position is 1, 0 is due",
        ),
        (
            "layer left out",
            with_parts(&float, |p| drop(p.remove(3))),
            "section table, byte 160: a section's kind is 3, 2 is due",
        ),
        (
            "logits not announced",
            with_parts(&float, |p| p.push((4, 0, vec![0; 12]))),
            "header, byte 12: the number of sections is 6, 5 is due",
        ),
        (
            "logits missing",
            with_parts(&half, |p| drop(p.pop())),
            "header, byte 12: the number of sections is 5, 6 is due",
        ),
        ("logits NaN", with_parts(&half, |p| p[5].2[4..8].copy_from_slice(&f32::NAN.to_le_bytes())), "logits, byte"),
        (
            "layer short",
            with_parts(&float, |p| {
                p[1].2.pop();
            }),
            "section table, byte 112: a section's length is",
        ),
        (
            "scale NaN",
            with_parts(&float, |p| {
                let n = p[3].2.len();
                p[3].2[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes())
            }),
            "layer `fc`, byte",
        ),
        (
            "scale infinite",
            with_parts(&half, |p| {
                let n = p[3].2.len();
                p[3].2[n - 2..].copy_from_slice(&[0, 0x7c])
            }),
            "layer `fc`, byte",
        ),
        ("bits after the last code", with_parts(&float, |p| p[3].2[202] |= 0x80), "layer `fc`, byte"),
        ("bytes between codes and scales", with_parts(&float, |p| p[3].2[203] = 1), "layer `fc`, byte"),
        (
            "float infinite",
            with_parts(&float, |p| p[4].2[..4].copy_from_slice(&f32::INFINITY.to_le_bytes())),
            "floats, byte",
        ),
        (
            "factor -128",
            with_parts(&two_level, |p| {
                let n = p[1].2.len();
                p[1].2[n - 1] = 0x80
            }),
            "layer `conv1`, byte",
        ),
        (
            "no JSON",
            with_parts(&float, |p| p[0].2 = vec![0xff; 100]),
            "metadata, byte 256: expected value at line 1 column 1",
        ),
        ("nested JSON", with_parts(&float, |p| p[0].2 = vec![b'['; 100_000]), "metadata, byte"),
        (
            "JSON with spaces",
            with_text(&float, "{\"info\"", "{ \"info\""),
            "metadata, byte 256: the metadata are not in their canonical form",
        ),
        (
            "an unknown key",
            with_text(&float, "{\"info\"", "{\"x\":1,\"info\""),
            "metadata, byte 256: unknown field `x`",
        ),
        (
            "an operation's unknown key",
            with_text(&float, "{\"op\":\"relu\"}", "{\"op\":\"relu\",\"x\":1}"),
            "metadata, byte 256: the metadata are not in their canonical form",
        ),
        ("9 bits", with_text(&float, "\"bits\":4", "\"bits\":9"), "metadata, byte 256: 9 bits: expected 2 to 8"),
        ("block 0", with_text(&float, "\"block\":3", "\"block\":0"), "metadata, byte 256: block size `0`"),
        (
            "huge block",
            with_text(
                &float,
                "[4,4,1,1],\"bits\":4,\"block\":3",
                "[4,4,1,1],\"bits\":4,\"block\":18446744073709551615",
            ),
            "metadata, byte 256: layer `grouped`: its activation blocks",
        ),
        (
            "a stranger",
            with_text(&float, "\"node\":\"fc\"", "\"node\":\"relu\""),
            "metadata, byte 256: layer `relu` is not in the graph, or not in its order",
        ),
        (
            "no negative inputs",
            with_text(&float, "\"signed\":true", "\"signed\":false"),
            "metadata, byte 256: layer `conv1`: it is said to have no negative inputs",
        ),
        (
            "another shape",
            with_text(&float, "\"shape\":[8,3,3,3]", "\"shape\":[8,3,3,4]"),
            "metadata, byte 256: layer `conv1`: its shape is",
        ),
        (
            "a float left out",
            with_text(
                &float,
                "{\"name\":\"fc.bias\",\"shape\":[3],\"type\":\"f32\"}",
                "{\"name\":\"x.bias\",\"shape\":[3],\"type\":\"f32\"}",
            ),
            "metadata, byte 256: `fc.bias` [3] is due",
        ),
        (
            "batch normalisation",
            with_text(
                &float,
                "{\"op\":\"affine\",\"channels\":8}",
                "{\"op\":\"batch_norm2d\",\"channels\":8,\"eps\":1.0}",
            ),
            "metadata, byte 256: node `norm`: a batch normalisation",
        ),
        (
            "a cycle",
            with_text(&float, "\"inputs\":[1]", "\"inputs\":[9]"),
            "metadata, byte 256: node `relu`: input 9 is not an earlier node",
        ),
        (
            "4 MiB of classes, which is valid",
            with_text(&float, "\"classes\":[", &format!("\"classes\":[{}", "\"\",".repeat(1_390_000))),
            "nothing: the classes are 139",
        ),
        (
            "too long metadata",
            with_text(&float, "\"classes\":[", &format!("\"classes\":[{}", "\"\",".repeat(1_400_000))),
            "metadata, byte 256: 4202649 bytes of metadata: at most 4194304 are allowed",
        ),
        (
            "4 MiB of one operation",
            with_text(&float, "{\"op\":\"relu\"}", &format!("{{\"op\":\"relu\",\"x\":[{}0]}}", "0,".repeat(2_000_000))),
            "metadata, byte 256: the metadata are not in their canonical form",
        ),
        (
            "4 MiB of inputs",
            with_text(&float, "\"inputs\":[1]", &format!("\"inputs\":[{}1]", "1,".repeat(2_000_000))),
            "metadata, byte 256: node `relu`: does not take 2000001 inputs",
        ),
        ("20,000 nodes", many_nodes(&float), "metadata, byte 256: a graph has at most 16384 nodes, this one has 200"),
    ];
    for (name, from, to) in [
        ("huge filters", "\"out_channels\":8", format!("\"out_channels\":{huge}")),
        ("huge kernel", "\"kernel\":[3,3]", format!("\"kernel\":[{huge},{huge}]")),
        ("kernel 0", "\"kernel\":[3,3]", "\"kernel\":[0,3]".into()),
        ("huge padding", "\"padding\":[1,1]", format!("\"padding\":[{},1]", u64::MAX)),
        ("an image of 2^34 pixels with its border", "\"padding\":[1,1]", "\"padding\":[65536,65536]".into()),
        ("stride 0", "\"stride\":[1,1]", "\"stride\":[0,1]".into()),
        ("huge linear layer", "\"out_features\":3", format!("\"out_features\":{huge}")),
    ] {
        files.push((name, with_text(&float, from, &to), "metadata, byte 256: node `"));
    }
    files
}

/// Adds a chain of 20,000 ReLUs at the end of the graph.
fn many_nodes(seed: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(split(seed).unwrap()[0].2.clone()).unwrap();
    let nodes = text.matches("\"inputs\"").count();
    let shape = "\"shape\":{\"channels\":3,\"height\":1,\"width\":1}";
    let node =
        |i: usize| format!(",{{\"name\":\"r{i}\",\"op\":{{\"op\":\"relu\"}},\"inputs\":[{}],{shape}}}", nodes + i - 1);
    let more: String = (0..20_000).map(node).collect();
    with_text(seed, &format!("{shape}}}]}}}}"), &format!("{shape}}}{more}]}}}}"))
}

#[test]
fn hostile_files_are_refused_in_the_memory_they_justify() {
    let _alone = ALONE.lock();
    for seed in seeds() {
        let (model, peak) = read(&seed);
        model.unwrap_or_else(|error| panic!("a valid file: {error}"));
        assert!(peak < 32 * seed.len(), "{peak} bytes for a valid file of {}", seed.len());
    }
    println!("{:<32} {:>10} {:>12}  refusal", "file", "bytes", "peak bytes");
    for (name, bytes, expected) in hostile() {
        let (result, peak) = read(&bytes);
        let said = match result {
            Err(error) => error.to_string(),
            Ok(model) => format!("nothing: the classes are {}", model.info().classes.len()),
        };
        println!("{name:<32} {:>10} {peak:>12}  {said}", bytes.len());
        assert!(said.contains(expected), "{name}: {said}");
        // The documentation promises 32 bytes for each byte; messages and buffers take a little more.
        assert!(peak <= 32 * bytes.len() + 16_384, "{name}: {peak} bytes for a file of {}", bytes.len());
    }
}

#[test]
fn every_damaged_byte_and_every_cut_is_refused() {
    let _alone = ALONE.lock();
    for seed in seeds() {
        for at in 0..seed.len() {
            let mut bytes = seed.clone();
            bytes[at] ^= 0x10;
            assert!(File::parse(&bytes).is_err(), "byte {at}");
            assert!(File::parse(&seed[..at]).is_err(), "cut to {at}");
        }
    }
}

/// A reader in Python with the standard library alone, written from the format's page, decodes every tensor to the same bits.
#[test]
fn a_reader_written_from_the_page_agrees() {
    let _alone = ALONE.lock();
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: there is no python3");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_dsc.py");
    let folder = tempfile::tempdir().unwrap();
    for (i, seed) in seeds().iter().enumerate() {
        let path = folder.path().join(format!("{i}.dsc"));
        std::fs::write(&path, seed).unwrap();
        let output = Command::new("python3").arg(script).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let file = File::parse(seed).unwrap();
        let mut lines = Vec::new();
        for (name, tensor) in file.to_model().unwrap().dequantized().iter() {
            let bytes: Vec<u8> = tensor.data().iter().flat_map(|v| v.to_le_bytes()).collect();
            lines.push(format!("{name} {} {:08x}", tensor.data().len(), crc32fast::hash(&bytes)));
        }
        if let Some(pair) = file.pair() {
            let input = model::dsc::Pair::input(pair.seed, file.graph().input());
            let bytes: Vec<u8> = input.iter().chain(&pair.logits).flat_map(|v| v.to_le_bytes()).collect();
            lines.push(format!("pair {} {:08x}", bytes.len() / 4, crc32fast::hash(&bytes)));
        }
        lines.sort();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), lines.join("\n"), "seed {i}");
    }
    // The weights of two-level scales differ from those of float scales.
    assert_ne!(model(true).dequantized(), model(false).dequantized());
}
