//! Packed safetensors: a model as one safetensors file, laid out as the crate's documentation says.
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::Path;

use blockfloat::{
    ActivationFormat, Bits, BlockSize, QuantizedWeights, ScaleFormat, TwoLevel, pack, packed_len, unpack,
};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};

use graph::{Graph, Role, Tensor, Weights, WeightsError};
use model::{Float, Info, Model, ModelError, QuantizedLayer, SaveOptions};

use crate::error::FileError;
use crate::version::{FORMAT, VERSION};

/// The metadata entry that holds the [`Header`].
const KEY: &str = "dsconv";
/// The longest header of a safetensors file that its format allows.
const MAX_HEADER: u64 = 100_000_000;

/// The description of the layout that every file has, so that a reader can be written from the file alone.
const LAYOUT: &str = "A quantized layer has the tensors `<node>.codes` and `<node>.scales` in place of \
    `<node>.weight`. With shape = [Co, Cg, Kh, Kw] (output channels, input channels of one group, kernel), bits = b and \
    block = B (\"pixel\": B = Cg), the codes are Co*Cg*Kh*Kw two's complement integers of b bits in row-major order: \
    code i is bits i*b to i*b+b-1 of the stream, lowest bit first, and bit k of the stream is bit k%8 (value \
    1 << (k%8)) of byte k/8; the bits after the last code are 0. Scales have the shape [Co, ceil(Cg/B), Kh, Kw], \
    little-endian F32 or F16. weight[o,c,y,x] = scales[o, floor(c/B), y, x] * code[o,c,y,x]. A layer whose `scales` is \
    \"two_level\" has in place of them `<node>.factors`, I8 of that shape, and `<node>.channel_scales`, F32 [Co]: scales = \
    channel_scales[o] * factors[o, floor(c/B), y, x]. A linear layer is a \
    convolution of kernel 1x1. Before a layer whose activation is not null, each run of activation.block input channels \
    of a group at one pixel is rounded (half to even) to integers of activation.bits bits times one scale: -largest to \
    largest if signed, else 0 to largest; scale \"float\" is max|x| / largest, \"pow2\" the power of two from the \
    exponent of max|x|. All other tensors are parameters under their PyTorch names.";

/// The JSON of the metadata entry [`KEY`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    format: Cow<'a, str>,
    version: u64,
    /// The crc32 of this header as it is without it, and of every tensor: its name and its bytes, in the order of names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crc32: Option<u32>,
    layout: Cow<'a, str>,
    info: Cow<'a, Info>,
    layers: BTreeMap<String, LayerHeader>,
    graph: Cow<'a, Graph>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerHeader {
    shape: [usize; 4],
    bits: Bits,
    block: BlockSize,
    #[serde(default, skip_serializing_if = "is_float")]
    scales: ScaleFormat,
    activation: Option<ActivationFormat>,
    signed: bool,
}

fn is_float(scales: &ScaleFormat) -> bool {
    *scales == ScaleFormat::Float
}

/// The part of a header that all versions share.
#[derive(Deserialize)]
struct Version {
    format: String,
    version: u64,
}

/// Tells whether a safetensors file holds a model that [`save`](crate::save) wrote, by its header alone.
///
/// # Errors
/// Any error of the file system; [`InvalidData`](std::io::ErrorKind::InvalidData) or
/// [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) if the file has no safetensors header.
pub fn is_packed(path: impl AsRef<Path>) -> std::io::Result<bool> {
    #[derive(Deserialize)]
    struct Outer {
        #[serde(rename = "__metadata__", default)]
        metadata: BTreeMap<String, serde::de::IgnoredAny>,
    }
    let mut file = std::fs::File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length).min(MAX_HEADER)).read_to_end(&mut header)?;
    let outer: Outer = serde_json::from_slice(&header)?;
    Ok(outer.metadata.contains_key(KEY))
}

/// Writes a model as the bytes of a packed safetensors file. Equal models give equal bytes.
///
/// # Errors
/// As [`Model::check`]; [`FileError::Header`] where the header cannot hold a number, such as a NaN mean.
pub fn to_bytes(model: &Model, options: &SaveOptions) -> Result<Vec<u8>, FileError> {
    model.check()?;
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, tensor) in model.weights().iter() {
        let float = options.floats.for_values(tensor.data());
        tensors.push((name.to_owned(), dtype(float), tensor.shape().to_vec(), float.encode(tensor.data())));
    }
    for (name, QuantizedLayer { codes, .. }) in model.layers() {
        let packed = pack(codes.codes(), codes.bits());
        let scale_shape = codes.scale_shape().to_vec();
        tensors.push((codes_name(name), Dtype::U8, vec![packed.len()], packed));
        if let Some(levels) = codes.two_level() {
            let factors = levels.factors().iter().map(|&k| k as u8).collect();
            let channel = Float::F32.encode(levels.channel());
            tensors.push((factors_name(name), Dtype::I8, scale_shape, factors));
            tensors.push((channel_name(name), Dtype::F32, vec![levels.channel().len()], channel));
        } else {
            let float = options.scale_precision.for_values(codes.scales());
            tensors.push((scales_name(name), dtype(float), scale_shape, float.encode(codes.scales())));
        }
    }
    let bytes = tensors.iter().map(|(name, _, _, data)| (name.as_str(), data.as_slice()));
    let header = header(model, &bytes.collect())?;
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(*dtype, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, FileError>>()?;
    Ok(serialize(views, Some(HashMap::from([(KEY.into(), header)])))?)
}

/// Reads the bytes of a packed safetensors file and checks all of it: every tensor must be one that the header asks for, of
/// the right shape and type, with finite values and codes that fit.
///
/// # Errors
/// [`FileError`] says what is wrong, and where.
pub fn from_bytes(bytes: &[u8]) -> Result<Model, FileError> {
    let (header_len, tensors) = SafeTensors::read_metadata(bytes)?;
    // 8 bytes before the header hold its length; `read_metadata` has checked that the rest is exactly the tensors.
    let data = &bytes[8 + header_len..];
    let text = tensors.metadata().as_ref().and_then(|map| map.get(KEY)).ok_or(FileError::NoHeader)?;
    let Version { format, version } = serde_json::from_str(text)?;
    if format != FORMAT || version != VERSION {
        return Err(FileError::Version { format, version });
    }
    let mut header: Header<'_> = serde_json::from_str(text)?;
    // Files that others wrote, or that were changed on purpose, need have none.
    let stated = header.crc32.take();
    let rest = serde_json::to_string(&header)?;
    let Header { graph, info, layers, .. } = header;
    let graph = graph.into_owned();

    check_tensors(&graph, &layers, &tensors)?;
    let of_file = tensors.tensors();
    let spans = of_file.iter().map(|(name, info)| (name.as_str(), &data[info.data_offsets.0..info.data_offsets.1]));
    let found = checksum(&rest, &spans.collect());
    if let Some(expected) = stated.filter(|&stated| stated != found) {
        return Err(FileError::Checksum { expected, found });
    }
    let read = |name: &str| {
        let info = tensors.info(name).expect("tensors were checked");
        (info, &data[info.data_offsets.0..info.data_offsets.1])
    };
    let read_floats = |name: &str| {
        let (info, bytes) = read(name);
        let float = match info.dtype {
            Dtype::F32 => Float::F32,
            Dtype::F16 => Float::F16,
            found => return Err(wrong_dtype(name, "F32 or F16", found)),
        };
        Ok((info.shape.clone(), float.decode(bytes)))
    };

    let coded: BTreeSet<String> = layers.keys().map(|name| Role::Weight.name(name)).collect();
    let mut weights = Weights::default();
    for param in graph.params() {
        if !coded.contains(&param.name) {
            let (shape, values) = read_floats(&param.name)?;
            weights.insert(param.name, Tensor::new(shape, values));
        }
    }
    let mut quantized = BTreeMap::new();
    for (name, LayerHeader { shape, bits, block, scales, activation, signed }) in layers {
        let codes = codes_name(&name);
        let (info, packed) = read(&codes);
        if info.dtype != Dtype::U8 {
            return Err(wrong_dtype(&codes, "U8", info.dtype));
        }
        let numbers = |error| ModelError::Numbers { layer: name.clone(), error };
        let codes = unpack(packed, bits, shape.iter().product()).map_err(numbers)?;
        let codes = match scales {
            ScaleFormat::Float => {
                let (_, scales) = read_floats(&scales_name(&name))?;
                QuantizedWeights::from_parts(shape, bits, block, codes, scales)
            }
            ScaleFormat::TwoLevel => {
                let (info, factors) = read(&factors_name(&name));
                if info.dtype != Dtype::I8 {
                    return Err(wrong_dtype(&factors_name(&name), "I8", info.dtype));
                }
                let (info, channel) = read(&channel_name(&name));
                if info.dtype != Dtype::F32 {
                    return Err(wrong_dtype(&channel_name(&name), "F32", info.dtype));
                }
                let factors = factors.iter().map(|&k| k as i8).collect();
                let two_level = TwoLevel::new(Float::F32.decode(channel), factors);
                QuantizedWeights::from_parts_two_level(shape, bits, block, codes, two_level)
            }
        };
        let codes = codes.map_err(numbers)?;
        quantized.insert(name, QuantizedLayer { codes, activation, signed });
    }
    let model = Model::new(graph, weights, quantized, info.into_owned())?;
    model.check()?;
    Ok(model)
}

/// Returns what [`Header::crc32`] is of a header without it, and of tensors.
fn checksum(header: &str, tensors: &BTreeMap<&str, &[u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.as_bytes());
    for (name, data) in tensors {
        hasher.update(name.as_bytes());
        hasher.update(data);
    }
    hasher.finalize()
}

/// Returns the header of a model with these tensors.
fn header(model: &Model, tensors: &BTreeMap<&str, &[u8]>) -> Result<String, FileError> {
    let layers = model.layers().iter().map(|(name, QuantizedLayer { codes, activation, signed })| {
        let (shape, bits, block) = (codes.shape(), codes.bits(), codes.block());
        let scales = codes.two_level().map_or(ScaleFormat::Float, |_| ScaleFormat::TwoLevel);
        (name.clone(), LayerHeader { shape, bits, block, scales, activation: *activation, signed: *signed })
    });
    let mut header = Header {
        format: FORMAT.into(),
        version: VERSION,
        crc32: None,
        layout: LAYOUT.into(),
        info: Cow::Borrowed(model.info()),
        layers: layers.collect(),
        graph: Cow::Borrowed(model.graph()),
    };
    let text = serde_json::to_string(&header)?;
    // JSON has no NaN or infinity: a header that cannot be read again is refused here.
    serde_json::from_str::<Header>(&text)?;
    header.crc32 = Some(checksum(&text, tensors));
    Ok(serde_json::to_string(&header)?)
}

/// Compares names and shapes of all tensors of a file with those that its header asks for.
fn check_tensors(graph: &Graph, layers: &BTreeMap<String, LayerHeader>, tensors: &Metadata) -> Result<(), FileError> {
    let mut expected: BTreeMap<String, Vec<usize>> = graph.params().into_iter().map(|p| (p.name, p.shape)).collect();
    for (name, layer) in layers {
        let refuse = |why: String| FileError::Model(ModelError::Layer { layer: name.clone(), why });
        let node = graph.find(name).and_then(|id| graph.node(id).weight_shape());
        let want = node.ok_or_else(|| refuse("the graph has no such convolution or linear layer".into()))?;
        if layer.shape != want {
            return Err(refuse(format!("its codes have the shape {:?}, the graph needs {want:?}", layer.shape)));
        }
        let count = want.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let count = count.ok_or_else(|| refuse(format!("a weight of shape {want:?} does not fit memory")))?;
        let [co, cg, kh, kw] = want;
        expected.remove(&Role::Weight.name(name));
        expected.insert(codes_name(name), vec![packed_len(count, layer.bits)]);
        let scale_shape = vec![co, layer.block.count(cg), kh, kw];
        match layer.scales {
            ScaleFormat::Float => {
                expected.insert(scales_name(name), scale_shape);
            }
            ScaleFormat::TwoLevel => {
                expected.insert(factors_name(name), scale_shape);
                expected.insert(channel_name(name), vec![co]);
            }
        }
    }
    let found = tensors.tensors();
    let found = found.iter().map(|(name, info)| (name.as_str(), info.shape.as_slice())).collect();
    Ok(WeightsError::compare(graph.name(), &expected, &found)?)
}

fn wrong_dtype(tensor: &str, expected: &'static str, found: Dtype) -> FileError {
    FileError::Dtype { tensor: tensor.into(), expected, found: format!("{found:?}") }
}

fn dtype(float: Float) -> Dtype {
    match float {
        Float::F32 => Dtype::F32,
        Float::F16 => Dtype::F16,
    }
}

fn codes_name(layer: &str) -> String {
    format!("{layer}.codes")
}

fn scales_name(layer: &str) -> String {
    format!("{layer}.scales")
}

fn factors_name(layer: &str) -> String {
    format!("{layer}.factors")
}

fn channel_name(layer: &str) -> String {
    format!("{layer}.channel_scales")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use graph::{Builder, Conv2d, Op, Shape};
    use model::{Policy, fixture};

    use crate::{load, save};

    const F32: SaveOptions = SaveOptions::EXACT;
    const SCALES_F16: SaveOptions = SaveOptions { floats: Float::F32, scale_precision: Float::F16 };
    const F16: SaveOptions = SaveOptions { floats: Float::F16, scale_precision: Float::F16 };

    /// Checks that loading a saved model gives the rounded model, and that this saves as the same bytes.
    fn assert_round_trip(model: &Model, options: &SaveOptions) {
        let bytes = to_bytes(model, options).unwrap();
        let read = from_bytes(&bytes).unwrap();
        let mut rounded = model.clone();
        rounded.round(options);
        assert_eq!(read, rounded);
        assert!(to_bytes(&read, options).unwrap() == bytes, "saved again, the bytes differ");
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(bytes.len() as u64, 8 + header + model.storage_bytes(options));
    }

    #[test]
    fn files_hold_float_and_quantized_models() {
        for options in [F32, SCALES_F16, F16] {
            assert_round_trip(&fixture::float(), &options);
            assert_round_trip(&fixture::quantized(), &options);
        }
        // In F32 nothing is rounded, not even an eps of 0.30000000000000004.
        assert_eq!(from_bytes(&to_bytes(&fixture::quantized(), &F32).unwrap()).unwrap(), fixture::quantized());
        assert_eq!(from_bytes(&to_bytes(&fixture::float(), &F32).unwrap()).unwrap(), fixture::float());
    }

    #[test]
    fn rounded_scales_are_what_f16_stores() {
        let mut model = fixture::quantized();
        let read = from_bytes(&to_bytes(&model, &SCALES_F16).unwrap()).unwrap();
        assert_ne!(read, model);
        model.round_scales_f16();
        assert_eq!(read, model);
    }

    #[test]
    fn two_level_scales_are_stored_as_they_are() {
        let model = fixture::quantized().to_two_level().unwrap();
        for options in [F32, SCALES_F16, F16] {
            assert_round_trip(&model, &options);
            let read = from_bytes(&to_bytes(&model, &options).unwrap()).unwrap();
            assert_eq!(read.layers(), model.layers());
        }
        assert_eq!(model.to_two_level().unwrap(), model);
        assert_eq!(model.scale_precision(), Float::F16);
        // The fixture has 137 factors and 10 + 4 + 4 + 3 channels: see `sizes_are_counted_by_hand` in `model`.
        let float = fixture::quantized().storage_bytes(&F32);
        assert_eq!(model.storage_bytes(&F32), float - 4 * 137 + 137 + 4 * 21);
    }

    #[test]
    fn scales_that_f16_cannot_hold_stay_f32() {
        for factor in [1e9, 1e-9] {
            let scale = |name: &str, layer: &mut QuantizedLayer| match name {
                "fc" => layer.codes.scale_channels(&[1.0, factor, factor]).unwrap(),
                "conv1" => layer.codes.scale_channels(&[factor; 10]).unwrap(),
                _ => {}
            };
            let model = fixture::quantized().map_layers(scale).unwrap();
            assert_round_trip(&model, &SCALES_F16);
            let bytes = to_bytes(&model, &SCALES_F16).unwrap();
            let (_, tensors) = SafeTensors::read_metadata(&bytes).unwrap();
            let dtype = |name: &str| tensors.info(name).unwrap().dtype;
            // Filters of fc that are small compared with its first one may round; those of conv1 are all too small.
            let fc = if factor > 1.0 { Dtype::F32 } else { Dtype::F16 };
            assert_eq!(
                [dtype("fc.scales"), dtype("conv1.scales"), dtype("grouped.scales")],
                [fc, Dtype::F32, Dtype::F16]
            );
        }
    }

    #[test]
    fn a_file_is_written_whole_and_replaces_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, "something else").unwrap();
        let size = save(&fixture::quantized(), &path, &F32).unwrap();
        assert_eq!(size, std::fs::metadata(&path).unwrap().len());
        assert_eq!(load(&path).unwrap(), fixture::quantized());
        // A model that cannot be saved leaves the file and no other.
        let mut broken = fixture::quantized();
        broken.values_mut("fc.bias").unwrap()[0] = f32::NAN;
        save(&broken, &path, &F32).unwrap_err();
        assert_eq!(load(&path).unwrap(), fixture::quantized());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let plain = folder.path().join("plain");
            std::fs::write(&plain, "").unwrap();
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&plain));
        }
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no").join("model.safetensors");
        assert!(matches!(load(&path), Err(FileError::Io { .. })));
        assert!(matches!(save(&fixture::float(), &path, &F32), Err(FileError::Io { .. })));
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, "x").unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert_eq!(error, format!("`{}`: not a safetensors file: header too small", path.display()));
    }

    #[test]
    fn what_a_header_cannot_hold_is_not_written() {
        let mut model = fixture::float();
        model.info_mut().preprocess.mean[1] = f32::NAN;
        assert!(matches!(to_bytes(&model, &F32), Err(FileError::Header(_))));
        let mut model = fixture::float();
        model.values_mut("fc.bias").unwrap()[2] = f32::NAN;
        let error = to_bytes(&model, &F32).unwrap_err().to_string();
        assert_eq!(error, "tensor `fc.bias`: element 2 is NaN or infinite");
    }

    #[test]
    fn a_changed_byte_anywhere_is_found() {
        let bytes = to_bytes(&fixture::quantized(), &F32).unwrap();
        let read = from_bytes(&bytes).unwrap();
        let mut accepted = 0;
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            // A description of the layout, or a space, may say the same.
            match from_bytes(&damaged) {
                Ok(model) => {
                    assert_eq!(model, read, "byte {at}");
                    accepted += 1;
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        assert!(accepted < 16, "{accepted}");
    }

    /// Reads the weights of a 4-bit layer straight from the bytes, without this crate's code, by the documented layout.
    #[test]
    fn the_layout_is_as_documented() {
        let model = fixture::float().quantize(&fixture::policy(4, 2)).unwrap();
        let bytes = to_bytes(&model, &F32).unwrap();
        let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
        let tensor = |name: &str| {
            let at = |i: usize| 8 + len + header[name]["data_offsets"][i].as_u64().unwrap() as usize;
            &bytes[at(0)..at(1)]
        };
        let (codes, scales) = (tensor("grouped.codes"), tensor("grouped.scales"));
        let [co, cg, blocks] = [4, 5, 3];
        let mut values = Vec::new();
        for o in 0..co {
            for c in 0..cg {
                let i = o * cg + c;
                let field = i32::from(codes[i / 2] >> (4 * (i % 2)) & 15);
                let code = if field < 8 { field } else { field - 16 };
                let s = 4 * (o * blocks + c / 2);
                values.push(f32::from_le_bytes(scales[s..s + 4].try_into().unwrap()) * code as f32);
            }
        }
        assert_eq!(model.dequantized()["grouped.weight"].data(), values);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_layer_survives_a_file(
            bits in 2u8..=8,
            block in 1usize..9,
            groups in 1usize..4,
            per_group in (1usize..4, 1usize..12),
            kernel in (1usize..4, 1usize..4),
            bias in any::<bool>(),
            weight_only in any::<bool>(),
            two_level in any::<bool>(),
            seed in any::<u64>(),
        ) {
            let conv = Conv2d {
                groups,
                kernel: [kernel.0, kernel.1],
                bias,
                ..Conv2d::new(groups * per_group.1, groups * per_group.0, 1)
            };
            let mut b = Builder::new("g", Shape::new(conv.in_channels, 3, 3));
            let x = b.conv("conv", conv, b.input());
            let x = b.push("flatten", Op::Flatten, vec![x]);
            b.linear("fc", 2, x);
            let graph = b.finish().unwrap();
            let weights = Weights::init(&graph, seed);
            let float = Model::float(graph, weights, fixture::info()).unwrap();
            let mut policy = fixture::policy(bits, block);
            if weight_only {
                policy = Policy { activation: None, ..policy };
            }
            if two_level {
                policy.scales = ScaleFormat::TwoLevel;
            }
            let model = float.quantize(&policy).unwrap();
            for options in [F32, SCALES_F16, F16] {
                assert_round_trip(&model, &options);
            }
        }
    }
}
