//! Networks whose first operations normalise the image.
use crate::{Graph, Op, Role, Weights};

/// Returns what pixels of 0 to 255 are divided by before they become the input of a network that normalises it itself: 255 where its
/// first operations take off and divide by the mean and deviation of pixels of 0 to 1, 1 where these are of pixels of 0 to 255. `None`
/// where the network does not begin so, or the numbers could be another step's.
///
/// A first [`Op::Affine`], or several, computes `x k + b`, which is `(x - mean) / std` with `mean = -b / k` and `std = 1 / k`.
pub fn normalised_pixels(graph: &Graph, weights: &Weights) -> Option<f32> {
    let channels = graph.input().channels;
    let (mut k, mut b) = (vec![1.0f64; channels], vec![0.0f64; channels]);
    let (uses, mut last) = (graph.uses(), 0);
    while uses[last] == 1 {
        let (next, node) =
            graph.nodes().iter().enumerate().find(|(_, n)| n.inputs.iter().any(|i| i.index() == last))?;
        let Op::Affine { .. } = node.op else { break };
        let of = weights.of(&node.name);
        let (weight, bias) = (of.get(Role::Weight)?, of.get(Role::Bias)?);
        for c in 0..channels {
            let (weight, bias) = (f64::from(weight.data()[c]), f64::from(bias.data()[c]));
            (k[c], b[c]) = (k[c] * weight, b[c] * weight + bias);
        }
        last = next;
    }
    if last == 0 || k.contains(&0.0) {
        return None;
    }
    let (mean, std): (Vec<f64>, Vec<f64>) = k.iter().zip(&b).map(|(k, b)| (-b / k, 1.0 / k)).unzip();
    let all = |values: &[f64], range: std::ops::RangeInclusive<f64>| values.iter().all(|value| range.contains(value));
    let plain = all(&mean, -1e-3..=1e-3);
    if all(&mean, 0.2..=0.8) && all(&std, 0.1..=0.6) {
        Some(255.0)
    } else if all(&mean, 50.0..=200.0) && all(&std, 0.5..=260.0) || plain && all(&std, 100.0..=260.0) {
        Some(1.0)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Conv2d, Shape, Tensor};

    /// A network of these steps `x k + b`, then a convolution.
    fn begins_with(steps: &[(f32, f32)]) -> Option<f32> {
        let mut builder = Builder::new("net", Shape::new(3, 8, 8));
        let mut x = builder.input();
        for i in 0..steps.len() {
            x = builder.push(format!("step{i}"), Op::Affine { channels: 3 }, vec![x]);
        }
        builder.conv("conv", Conv2d::new(3, 4, 3), x);
        let graph = builder.finish().unwrap();
        let mut weights = Weights::init(&graph, 0);
        for (i, &(k, b)) in steps.iter().enumerate() {
            weights.insert(format!("step{i}.weight"), Tensor::new([3], vec![k; 3]));
            weights.insert(format!("step{i}.bias"), Tensor::new([3], vec![b; 3]));
        }
        normalised_pixels(&graph, &weights)
    }

    #[test]
    fn a_network_that_normalises_says_what_pixels_it_takes() {
        // (x - 0.45) / 0.22; 2 x - 1.
        assert_eq!(begins_with(&[(1.0, -0.45), (1.0 / 0.22, 0.0)]), Some(255.0));
        assert_eq!(begins_with(&[(2.0, -1.0)]), Some(255.0));
        // (x - 127.5) / 127.5; x - 104; x / 255, then the first of all.
        assert_eq!(begins_with(&[(1.0 / 127.5, -1.0)]), Some(1.0));
        assert_eq!(begins_with(&[(1.0, -104.0)]), Some(1.0));
        assert_eq!(begins_with(&[(1.0 / 255.0, 0.0)]), Some(1.0));
        assert_eq!(begins_with(&[(1.0 / 255.0, 0.0), (1.0, -0.45), (1.0 / 0.22, 0.0)]), Some(1.0));
    }

    #[test]
    fn other_first_steps_say_nothing() {
        assert_eq!(begins_with(&[]), None);
        // From torchvision's normalisation to that of the original GoogLeNet.
        assert_eq!(begins_with(&[(0.458, -0.03)]), None);
        assert_eq!(begins_with(&[(0.0, 1.0)]), None);
        assert_eq!(begins_with(&[(1.0, 0.0)]), None);
    }
}
