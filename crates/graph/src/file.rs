//! Models as files; the layout is in the crate's documentation.
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use blockfloat::{ActivationFormat, Bits, BlockSize, QuantizedWeights, pack, packed_len, unpack};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};

use crate::build::Graph;
use crate::model::{Info, Model, ModelError, QuantizedLayer, codes_shape, find_layer, weight_name};
use crate::precision::{Float, SaveOptions};
use crate::weights::{Tensor, Weights, WeightsError};

pub(crate) const FORMAT: &str = "dsconv-model";
pub(crate) const VERSION: u64 = 1;
/// The metadata entry that holds the [`Header`].
const KEY: &str = "dsconv";

/// Written into every file, so that a reader can be written from the file alone.
const LAYOUT: &str = "A quantized layer has the tensors `<node>.codes` and `<node>.scales` in place of `<node>.weight`. \
    With shape = [Co, Cg, Kh, Kw] (output channels, input channels of one group, kernel), bits = b and block = B \
    (\"pixel\": B = Cg), the codes are Co*Cg*Kh*Kw two's complement integers of b bits in row-major order: code i is bits \
    i*b .. i*b+b of the stream, lowest bit first, and bit k of the stream is bit k%8 (value 1 << k%8) of byte k/8; the bits after \
    the last code are 0. Scales have the shape [Co, ceil(Cg/B), Kh, Kw], little-endian F32 or F16. \
    weight[o,c,y,x] = scales[o, c/B, y, x] * code[o,c,y,x]; a linear layer is a convolution of kernel 1x1. Before the layer, \
    where activation is not null, each run of activation.block input channels of a group at one pixel is rounded to \
    activation.bits-bit integers, symmetric if signed, else from 0, times one scale. All other tensors are parameters under \
    their PyTorch names.";

/// The JSON under [`KEY`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    format: Cow<'a, str>,
    version: u64,
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
    activation: Option<ActivationFormat>,
    signed: bool,
}

/// The part of a header that all versions share.
#[derive(Deserialize)]
struct Version {
    format: String,
    version: u64,
}

impl Model {
    /// Writes the model to `path`, whole or not at all: the file is completed beside `path` and then renamed. Returns its
    /// size in bytes.
    ///
    /// # Errors
    /// [`ModelError::Io`], or as [`Model::to_bytes`].
    pub fn save(&self, path: impl AsRef<Path>, options: &SaveOptions) -> Result<u64, ModelError> {
        let path = path.as_ref();
        let bytes = self.to_bytes(options)?;
        write_atomic(path, &bytes).map_err(|source| ModelError::Io { path: path.into(), source })?;
        Ok(bytes.len() as u64)
    }

    /// Reads a file that [`Model::save`] wrote.
    ///
    /// # Errors
    /// [`ModelError::Io`], or [`ModelError::File`] with what [`Model::from_bytes`] says.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| ModelError::Io { path: path.into(), source })?;
        Self::from_bytes(&bytes).map_err(|source| ModelError::File { path: path.into(), source: Box::new(source) })
    }

    /// The model as the bytes of a file. Equal models give equal bytes.
    ///
    /// # Errors
    /// As [`Model::check`]; [`ModelError::Header`] where the header cannot hold a number, such as a NaN mean.
    pub fn to_bytes(&self, options: &SaveOptions) -> Result<Vec<u8>, ModelError> {
        self.check()?;
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, tensor) in &self.weights.0 {
            let float = options.floats.for_values(tensor.data());
            tensors.push((name.clone(), dtype(float), tensor.shape().to_vec(), float.encode(tensor.data())));
        }
        for (name, QuantizedLayer { codes, .. }) in &self.layers {
            let packed = pack(codes.codes(), codes.bits());
            let float = options.scales.for_values(codes.scales());
            let scale_shape = codes.scale_shape().to_vec();
            tensors.push((codes_name(name), Dtype::U8, vec![packed.len()], packed));
            tensors.push((scales_name(name), dtype(float), scale_shape, float.encode(codes.scales())));
        }
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(*dtype, shape.clone(), data)?)))
            .collect::<Result<Vec<_>, ModelError>>()?;
        Ok(serialize(views, Some(HashMap::from([(KEY.into(), self.header()?)])))?)
    }

    /// Reads the bytes of a file. Nothing is taken on trust: every tensor must be one that the header asks for, of the
    /// right shape and type, with finite values and codes that fit.
    ///
    /// # Errors
    /// [`ModelError`] says what is wrong, and where.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let (header_len, tensors) = SafeTensors::read_metadata(bytes)?;
        // 8 bytes before the header hold its length; `read_metadata` has checked that the rest is exactly the tensors.
        let data = &bytes[8 + header_len..];
        let text = tensors.metadata().as_ref().and_then(|map| map.get(KEY)).ok_or(ModelError::NoHeader)?;
        let Version { format, version } = serde_json::from_str(text)?;
        if format != FORMAT || version != VERSION {
            return Err(ModelError::Version { format, version });
        }
        let Header { graph, info, layers, .. } = serde_json::from_str(text)?;
        let graph = graph.into_owned();

        check_tensors(&graph, &layers, &tensors)?;
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

        let mut weights = Weights::default();
        for param in graph.params() {
            let coded = param.name.strip_suffix(".weight").is_some_and(|node| layers.contains_key(node));
            if !coded {
                let (shape, values) = read_floats(&param.name)?;
                weights.insert(param.name, Tensor::new(shape, values));
            }
        }
        let mut quantized = BTreeMap::new();
        for (name, LayerHeader { shape, bits, block, activation, signed }) in layers {
            let codes = codes_name(&name);
            let (info, packed) = read(&codes);
            if info.dtype != Dtype::U8 {
                return Err(wrong_dtype(&codes, "U8", info.dtype));
            }
            let (_, scales) = read_floats(&scales_name(&name))?;
            let codes = unpack(packed, bits, shape.iter().product())
                .and_then(|codes| QuantizedWeights::from_parts(shape, bits, block, codes, scales))
                .map_err(|source| ModelError::Numbers { layer: name.clone(), source })?;
            quantized.insert(name, QuantizedLayer { codes, activation, signed });
        }
        let model = Self { graph, weights, layers: quantized, info: info.into_owned() };
        model.check()?;
        Ok(model)
    }

    fn header(&self) -> Result<String, ModelError> {
        let layers = self.layers.iter().map(|(name, QuantizedLayer { codes, activation, signed })| {
            let (shape, bits, block) = (codes.shape(), codes.bits(), codes.block());
            (name.clone(), LayerHeader { shape, bits, block, activation: *activation, signed: *signed })
        });
        let header = Header {
            format: FORMAT.into(),
            version: VERSION,
            layout: LAYOUT.into(),
            info: Cow::Borrowed(&self.info),
            layers: layers.collect(),
            graph: Cow::Borrowed(&self.graph),
        };
        let text = serde_json::to_string(&header)?;
        // JSON has no NaN or infinity: a header that does not read back is not written.
        serde_json::from_str::<Header>(&text)?;
        Ok(text)
    }
}

/// Compares names and shapes of all tensors of a file with those that its header asks for.
fn check_tensors(graph: &Graph, layers: &BTreeMap<String, LayerHeader>, tensors: &Metadata) -> Result<(), ModelError> {
    let mut expected: BTreeMap<String, Vec<usize>> = graph.params().into_iter().map(|p| (p.name, p.shape)).collect();
    for (name, layer) in layers {
        let refuse = |why: String| ModelError::Layer { layer: name.clone(), why };
        let want = codes_shape(find_layer(graph, name)?).unwrap_or_default();
        if layer.shape != want {
            return Err(refuse(format!("its codes have the shape {:?}, the graph needs {want:?}", layer.shape)));
        }
        let count = want.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let count = count.ok_or_else(|| refuse(format!("a weight of shape {want:?} does not fit memory")))?;
        let [co, cg, kh, kw] = want;
        expected.remove(&weight_name(name));
        expected.insert(codes_name(name), vec![packed_len(count, layer.bits)]);
        expected.insert(scales_name(name), vec![co, layer.block.count(cg), kh, kw]);
    }
    let found = tensors.tensors();
    let found = found.iter().map(|(name, info)| (name.as_str(), info.shape.as_slice())).collect();
    Ok(WeightsError::compare(graph.name(), &expected, &found)?)
}

fn wrong_dtype(tensor: &str, expected: &'static str, found: Dtype) -> ModelError {
    ModelError::Dtype { tensor: tensor.into(), expected, found: format!("{found:?}") }
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

/// A temporary file in the same folder, so that the rename stays on one file system.
fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; this one becomes an ordinary file, as the umask allows.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(".dsconv-").suffix(".tmp").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
