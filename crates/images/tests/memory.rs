//! The memory that decoding a picture takes.
#![allow(missing_docs)]

use std::io::Write;

use flate2::{Compression, Crc, write::ZlibEncoder};
use images::Picture;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

fn zeros(count: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let part = vec![0; 1 << 16];
    for start in (0..count).step_by(part.len()) {
        encoder.write_all(&part[..part.len().min(count - start)]).unwrap();
    }
    encoder.finish().unwrap()
}

/// A PNG of 4x4 black pixels, with a colour profile of a quarter of a megabyte that unpacks to 256 MiB.
#[test]
fn a_profile_that_unpacks_to_a_thousand_times_its_size_is_passed_over() {
    let size = [&4u32.to_be_bytes()[..], &4u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let profile = [&b"profile\0\0"[..], &zeros(1 << 28)].concat();
    let png = [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &size),
        chunk(b"iCCP", &profile),
        chunk(b"IDAT", &zeros(4 * (1 + 3 * 4))),
        chunk(b"IEND", b""),
    ]
    .concat();
    assert!(png.len() < 1 << 19, "{} bytes", png.len());
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    assert_eq!(Picture::decode(&png).unwrap().size(), [4, 4]);
    let peak = MEMORY.peak_usage() - before;
    assert!(peak < 1 << 27, "{peak} bytes for a file of {}", png.len());
}
