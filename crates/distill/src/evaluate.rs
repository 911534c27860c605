//! Runs networks on sets of images.
use burn::tensor::{DType, Tensor};
use dsconv::Network;
use graph::{Graph, NodeId};
use images::{Labelled, Unlabelled};

use crate::loader::{Prefetch, tensor};
use crate::logits::Logits;
use crate::workers::{Workers, cores};
use crate::{Context, Error};

/// The images of a batch in evaluation: memory and speed depend on it.
const BATCH: usize = 64;
/// The least images of a part of a batch. An image's logits do not depend on the others beside it.
const LEAST: usize = 8;
/// The most operations of a node on a core: a second or two, after which work that was stopped ends.
const OPERATIONS: u64 = 1 << 34;

/// Runs several networks on all images and returns each network's outputs. An image is decoded once for all of them, ahead of
/// them, on another thread. `phase` names the work to [`Progress`](crate::Progress).
///
/// # Errors
/// [`Error::Data`] where the images do not fit the networks; [`Error::NotFinite`] where an output is NaN or infinite;
/// [`Error::Images`], [`Error::Interrupted`].
pub fn predict(
    phase: &str,
    networks: &[&Network],
    images: &Unlabelled,
    context: &Context,
) -> Result<Vec<Logits>, Error> {
    for network in networks {
        check_fits(network.graph(), images)?;
    }
    let count = images.len();
    // Values of large images take much memory.
    let most = networks.iter().map(|network| at_once(network.graph())).min().unwrap_or(BATCH);
    let batches = count.div_ceil(most);
    let workers = Workers::new(&context.device, cores().min(count.min(most) / LEAST))?;
    let source = {
        let images = images.clone();
        Prefetch::new(0..batches, move |i| images.batch(&(i * most..count.min((i + 1) * most)).collect::<Vec<_>>()))
    };
    context.progress.start(phase, count);
    let mut outputs: Vec<Vec<f32>> = vec![Vec::new(); networks.len()];
    let mut seen = Vec::with_capacity(count);
    for (batch, number) in source.zip(1..) {
        context.check()?;
        let batch = batch?;
        if batch.indices.is_empty() {
            continue;
        }
        seen.extend_from_slice(&batch.indices);
        let x = tensor(batch, &context.device);
        for (network, output) in networks.iter().zip(&mut outputs) {
            let [len, ..] = x.dims();
            let part =
                |range: std::ops::Range<usize>| ((*network).clone(), x.clone().narrow(0, range.start, range.len()));
            let parts = workers.parts(len).into_iter().map(part).collect();
            let stop = || context.interrupter.should_stop();
            let logits = workers.run(parts, |(network, x): (Network, Tensor<4>)| {
                Some(host(network.forward_taps_unless(x, &[], &stop)?.0))
            });
            let logits: Option<Vec<_>> = logits.into_iter().collect();
            let first = output.len();
            output.extend(logits.ok_or_else(|| context.interrupted())?.into_iter().flatten());
            check_finite(network.graph(), images, &seen, first, output)?;
        }
        context.progress.advance(count.min(number * most), "");
    }
    context.progress.finish();
    let heads = networks.iter().map(|network| network.graph().head());
    Ok(heads.zip(outputs).map(|(head, values)| Logits::of_images(head, seen.clone(), values)).collect())
}

/// The images that run together: few where a node takes long, but enough that every core has a part.
fn at_once(graph: &Graph) -> usize {
    let longest = graph.operations().into_iter().max().unwrap_or(0).max(1);
    let affordable = usize::try_from(OPERATIONS / longest).unwrap_or(usize::MAX).max(LEAST);
    graph.at_once(BATCH.min(affordable.saturating_mul(cores())))
}

/// Runs a network on images and returns the values of some of its nodes, those of all images one after the other.
///
/// # Errors
/// [`Error::Data`] where the images do not fit the network; [`Error::Images`].
pub fn values(
    network: &Network,
    taps: &[NodeId],
    images: &Unlabelled,
    context: &Context,
) -> Result<Vec<Vec<f32>>, Error> {
    check_fits(network.graph(), images)?;
    let batch = images.batch_of_some(&(0..images.len()).collect::<Vec<_>>())?;
    let (_, values) = network.forward_taps(tensor(batch, &context.device), taps);
    Ok(values.into_iter().map(host).collect())
}

/// Checks that the newest outputs are finite.
///
/// # Errors
/// [`Error::NotFinite`] for the first of `outputs`, rows of the images `seen`, that is not; those before `first` were looked at.
fn check_finite(
    graph: &Graph,
    images: &Unlabelled,
    seen: &[usize],
    first: usize,
    outputs: &[f32],
) -> Result<(), Error> {
    let Some(at) = outputs[first..].iter().position(|v| !v.is_finite()).map(|at| first + at) else { return Ok(()) };
    Err(Error::NotFinite {
        network: graph.name().to_owned(),
        value: outputs[at],
        image: images.image_name(seen[at / graph.head().count]),
        set: images.name().to_owned(),
    })
}

/// Checks that a network takes the images of a set.
///
/// # Errors
/// [`Error::Data`] where a set is empty or its images have another size than the network's input.
pub(crate) fn check_fits(graph: &Graph, images: &Unlabelled) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::Data { set: images.name().to_owned(), why });
    let (input, [channels, height, width]) = (graph.input(), images.shape());
    if (input.channels, input.height, input.width) != (channels, height, width) {
        return refuse(format!(
            "its images are {channels}x{height}x{width}, `{}` takes {}x{}x{}",
            graph.name(),
            input.channels,
            input.height,
            input.width
        ));
    }
    if images.is_empty() { refuse("it has no images".into()) } else { Ok(()) }
}

/// Checks that a network takes the images of a set and has outputs for its labels.
///
/// # Errors
/// [`Error::Data`] where images or labels do not fit the network.
pub(crate) fn check_labels(graph: &Graph, set: &Labelled) -> Result<(), Error> {
    check_fits(graph, &set.without_labels())?;
    let classes = graph.head().classes();
    match set.labels().iter().max() {
        Some(&label) if label >= classes => Err(Error::Data {
            set: set.name().to_owned(),
            why: format!("it has the label {label}, `{}` has {classes} classes", graph.name()),
        }),
        _ => Ok(()),
    }
}

/// The elements of a tensor, row-major, in main memory.
pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.without_autodiff().into_data().convert_dtype(DType::F32).try_into_vec::<f32>().expect("f32 data")
}
