//! Files that were cut, damaged or forged give an error that says what is wrong, never a panic.
use serde_json::{Value, json};

use model::{SaveOptions, fixture};

use crate::FileError;
use crate::packed::{from_bytes, to_bytes};

fn bytes() -> Vec<u8> {
    to_bytes(&fixture::quantized(), &SaveOptions::EXACT).unwrap()
}

/// Splits a file into its outer header and its tensor data. Who forges a file leaves the checksum out.
fn split(bytes: &[u8]) -> (Value, Vec<u8>) {
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let mut inner: Value = serde_json::from_str(header["__metadata__"]["dsconv"].as_str().unwrap()).unwrap();
    inner.as_object_mut().unwrap().remove("crc32").expect("a checksum");
    header["__metadata__"]["dsconv"] = json!(inner.to_string());
    (header, bytes[8 + len..].to_vec())
}

fn join(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Returns the error of reading a file after a change to its outer header and data.
fn forge(change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> String {
    let (mut header, mut data) = split(&bytes());
    change(&mut header, &mut data);
    from_bytes(&join(&header, &data)).expect_err("a forged file was read").to_string()
}

/// Returns the error of reading a file after a change to its `dsconv` metadata.
fn forge_inner(change: impl FnOnce(&mut Value)) -> String {
    forge(|header, _| {
        let mut inner: Value = serde_json::from_str(header["__metadata__"]["dsconv"].as_str().unwrap()).unwrap();
        change(&mut inner);
        header["__metadata__"]["dsconv"] = json!(inner.to_string());
    })
}

/// Returns the position of a node in the graph of the fixture's header.
fn node(inner: &mut Value, name: &str) -> usize {
    inner["graph"]["nodes"].as_array().unwrap().iter().position(|n| n["name"] == name).unwrap()
}

#[test]
fn an_untouched_file_survives_the_forger() {
    let (header, data) = split(&bytes());
    assert_eq!(from_bytes(&join(&header, &data)).unwrap(), fixture::quantized());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = bytes();
    for len in 0..bytes.len() {
        assert!(matches!(from_bytes(&bytes[..len]), Err(FileError::Container(_))), "cut to {len}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(from_bytes(&longer), Err(FileError::Container(_))));
}

#[test]
fn a_damaged_byte_never_panics() {
    let bytes = bytes();
    for i in 0..bytes.len() {
        for flip in [0x01, 0x02, 0x10, 0x20, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[i] ^= flip;
            // A digit of a mean or a letter of a class may change unnoticed; the model that is read is still valid.
            if let Ok(model) = from_bytes(&damaged) {
                to_bytes(&model, &SaveOptions::EXACT).unwrap_or_else(|error| panic!("byte {i} ^ {flip}: {error}"));
            }
        }
    }
}

#[test]
fn other_files_are_named_as_such() {
    let error = from_bytes(&safetensors::serialize([] as [(&str, safetensors::tensor::TensorView); 0], None).unwrap());
    assert!(matches!(error, Err(FileError::NoHeader)));
    assert_eq!(
        forge_inner(|h| h["version"] = json!(2)),
        "format `dsconv-model` version 2: this reads `dsconv-model` version 1"
    );
    // A later version is named even where the rest of its header is unknown.
    assert_eq!(
        forge_inner(|h| *h = json!({"format": "dsconv-model", "version": 7, "new": []})),
        "format `dsconv-model` version 7: this reads `dsconv-model` version 1"
    );
    assert_eq!(forge_inner(|h| h["format"] = json!("x")), "format `x` version 1: this reads `dsconv-model` version 1");
    let unknown = forge_inner(|h| h["extra"] = json!(1));
    assert!(unknown.starts_with("`dsconv` metadata: unknown field `extra`"), "{unknown}");
}

#[test]
fn tensors_must_be_those_of_the_header() {
    let rename = forge(|h, _| {
        let tensor = h.as_object_mut().unwrap().remove("fc.codes").unwrap();
        h["stray"] = tensor;
    });
    assert_eq!(rename, "the weights do not fit `tiny`:\n  missing     fc.codes\n  unexpected  stray");
    let transposed = forge(|h, _| h["grouped.scales"]["shape"] = json!([2, 4, 1, 1]));
    assert!(
        transposed.contains("wrong shape grouped.scales: expected [4, 2, 1, 1], found [2, 4, 1, 1]"),
        "{transposed}"
    );
    let dtype = forge(|h, _| h["fc.codes"]["dtype"] = json!("I8"));
    assert_eq!(dtype, "tensor `fc.codes`: expected U8, found I8");
    let dtype = forge(|h, _| h["fc.scales"]["dtype"] = json!("I32"));
    assert_eq!(dtype, "tensor `fc.scales`: expected F32 or F16, found I32");
    let dtype = forge(|h, _| h["fc.bias"]["dtype"] = json!("U32"));
    assert_eq!(dtype, "tensor `fc.bias`: expected F32 or F16, found U32");
}

#[test]
fn values_must_be_valid() {
    let at = |h: &Value, tensor: &str| h[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    let nan = |tensor: &'static str| {
        forge(move |h, data| {
            let start = at(h, tensor) + 4;
            data[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        })
    };
    assert_eq!(nan("fc.scales"), "layer `fc`: scale 1 is NaN or infinite");
    assert_eq!(nan("norm.weight"), "tensor `norm.weight`: element 1 is NaN or infinite");
    // 12 codes of 3 bits leave 4 bits of the fifth byte.
    let padding = forge(|h, data| data[at(h, "fc.codes") + 4] |= 0x80);
    assert_eq!(padding, "layer `fc`: the padding after the last packed code is not zero");
}

#[test]
fn two_level_scales_must_be_valid() {
    let bytes = to_bytes(&fixture::quantized().to_two_level().unwrap(), &SaveOptions::EXACT).unwrap();
    let forge = |change: &dyn Fn(&mut Value, &mut Vec<u8>)| {
        let (mut header, mut data) = split(&bytes);
        change(&mut header, &mut data);
        from_bytes(&join(&header, &data)).expect_err("a forged file was read").to_string()
    };
    let at = |h: &Value, tensor: &str| h[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    let factor = forge(&|h, data| data[at(h, "fc.factors") + 1] = 0x80);
    assert!(factor.starts_with("layer `fc`: factor times code is "), "{factor}");
    let nan = forge(&|h, data| {
        let start = at(h, "fc.channel_scales") + 8;
        data[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert_eq!(nan, "layer `fc`: scale 2 is NaN or infinite");
    let dtype = forge(&|h, _| h["fc.factors"]["dtype"] = json!("U8"));
    assert_eq!(dtype, "tensor `fc.factors`: expected I8, found U8");
    let float = forge(&|h, _| {
        let mut inner: Value = serde_json::from_str(h["__metadata__"]["dsconv"].as_str().unwrap()).unwrap();
        inner["layers"]["fc"].as_object_mut().unwrap().remove("scales");
        h["__metadata__"]["dsconv"] = json!(inner.to_string());
    });
    assert!(
        float.contains("missing     fc.scales\n  unexpected  fc.channel_scales\n  unexpected  fc.factors"),
        "{float}"
    );
}

#[test]
fn layers_must_fit_the_graph() {
    let unsigned = forge_inner(|h| h["layers"]["conv1"]["signed"] = json!(false));
    assert!(unsigned.starts_with("layer `conv1`: it is said to have no negative inputs"), "{unsigned}");
    let bits = forge_inner(|h| h["layers"]["conv1"]["bits"] = json!(9));
    assert!(bits.contains("9 bits: expected 2 to 8"), "{bits}");
    let bits = forge_inner(|h| h["layers"]["fc"]["bits"] = json!(4));
    assert!(bits.contains("wrong shape fc.codes: expected [6], found [5]"), "{bits}");
    let block = forge_inner(|h| h["layers"]["grouped"]["block"] = json!("pixel"));
    assert!(block.contains("wrong shape grouped.scales: expected [4, 1, 1, 1], found [4, 2, 1, 1]"), "{block}");
    let activation = forge_inner(|h| h["layers"]["grouped"]["activation"]["block"] = json!(3));
    assert!(activation.contains("do not hold whole weight blocks"), "{activation}");
    let shape = forge_inner(|h| h["layers"]["fc"]["shape"] = json!([4, 3, 1, 1]));
    assert_eq!(shape, "layer `fc`: its codes have the shape [4, 3, 1, 1], the graph needs [3, 4, 1, 1]");
    let stranger = forge_inner(|h| h["layers"]["relu"] = h["layers"]["fc"].clone());
    assert_eq!(stranger, "layer `relu`: the graph has no such convolution or linear layer");
}

#[test]
fn graphs_must_be_sound() {
    let future = forge_inner(|h| {
        let relu = node(h, "relu");
        h["graph"]["nodes"][relu]["inputs"] = json!([relu]);
    });
    assert!(future.contains("is not an earlier node"), "{future}");
    let stored = forge_inner(|h| h["graph"]["nodes"][1]["shape"]["height"] = json!(6));
    assert!(stored.contains("node `conv1`: gives [10, 5, 5], stored as [10, 6, 5]"), "{stored}");
    let empty = forge_inner(|h| h["graph"]["nodes"] = json!([]));
    assert!(empty.contains("a graph needs one input node"), "{empty}");

    // Sizes whose products overflow.
    let huge = 1u64 << 62;
    for (name, key, value) in [
        ("conv1", "out_channels", json!(huge)),
        ("conv1", "kernel", json!([huge, huge])),
        ("conv1", "kernel", json!([0, 1])),
        ("conv1", "padding", json!([u64::MAX, u64::MAX])),
        ("conv1", "padding", json!([huge, huge])),
        ("conv1", "dilation", json!([u64::MAX, 2])),
        ("conv1", "stride", json!([0, 1])),
        ("conv1", "groups", json!(0)),
        ("pool", "output", json!([huge, huge])),
        ("pool", "output", json!([0, 1])),
        ("fc", "out_features", json!(0)),
        ("fc", "out_features", json!(u64::MAX)),
        ("norm", "channels", json!(huge)),
    ] {
        let error = forge_inner(|h| {
            let i = node(h, name);
            let op = &mut h["graph"]["nodes"][i]["op"];
            assert!(op.get(key).is_some(), "{name} has no {key}: {op}");
            op[key] = value.clone();
        });
        assert!(error.starts_with("`dsconv` metadata: node `"), "{name}.{key} = {value}: {error}");
    }
    let input = forge_inner(|h| {
        h["graph"]["nodes"][0]["shape"] = json!({"channels": 3, "height": 1u64 << 40, "width": 1u64 << 40});
    });
    assert!(input.contains("is too large"), "{input}");
}
