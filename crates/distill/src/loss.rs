//! The divergence of a student from its teacher, by their outputs.
use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, log_softmax};
use graph::{Activation, Graph, Op};

use crate::logits::Logits;

/// The divergence of two networks' logits, by what logits decide: which class of several is the right one, or a yes or no
/// each.
///
/// Networks that end in a softmax or sigmoid are adapted without it ([`Graph::without_head`]): their outputs are logits here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Loss {
    /// Logits compete: `KL(softmax(t) || softmax(s))`.
    Classes,
    /// Each logit decides for itself: the sum over outputs of `KL(Bernoulli(sigmoid(t)) || Bernoulli(sigmoid(s)))`, each of
    /// `scale x + shift`. It is for a single output and for sigmoids. (A softmax of one output is always 1, and learns nothing.)
    Decisions {
        /// The factor of a logit: 1 but for a hard sigmoid, whose probability `alpha x + beta` has the slope of `sigmoid(4 alpha x)`.
        scale: f64,
        /// The summand that moves the value at which an output decides to 0.
        shift: f64,
    },
}

impl Loss {
    /// Chooses by how the graph ends.
    pub(crate) fn of(graph: &Graph) -> Self {
        let head = graph.head();
        let hard = graph.nodes().iter().rev().find_map(|node| match node.op {
            Op::Activation(Activation::HardSigmoid { alpha, beta }) => Some((alpha, beta)),
            Op::Flatten | Op::Dropout { .. } => None,
            // Only the last operation counts.
            _ => Some((0.0, 0.0)),
        });
        match (head.outputs, hard) {
            (graph::Outputs::Sigmoid, Some((alpha, beta))) if alpha != 0.0 => {
                Self::Decisions { scale: 4.0 * alpha, shift: 4.0 * (beta - 0.5) }
            }
            (graph::Outputs::Sigmoid, _) => Self::Decisions { scale: 1.0, shift: 0.0 },
            _ if head.is_binary() => Self::Decisions { scale: 1.0, shift: 0.0 },
            _ => Self::Classes,
        }
    }

    /// The divergence of each image at a temperature `T`, times `T^2`: both logits `[N, outputs]` are divided by `T`.
    pub(crate) fn divergence(self, teacher: Tensor<2>, student: Tensor<2>, temperature: f64) -> Tensor<1> {
        let terms = match self {
            Self::Classes => {
                let log_t = log_softmax(teacher.div_scalar(temperature), 1);
                let log_s = log_softmax(student.div_scalar(temperature), 1);
                log_t.clone().exp() * (log_t - log_s)
            }
            Self::Decisions { .. } => {
                let (t, s) = (self.decisions(teacher, temperature), self.decisions(student, temperature));
                let side = |t: Tensor<2>, s: Tensor<2>| {
                    let log_t = log_sigmoid(t);
                    log_t.clone().exp() * (log_t - log_sigmoid(s))
                };
                side(t.clone(), s.clone()) + side(t.neg(), s.neg())
            }
        };
        terms.sum_dim(1).flatten::<1>(0, 1).mul_scalar(temperature * temperature)
    }

    fn decisions(self, logits: Tensor<2>, temperature: f64) -> Tensor<2> {
        match self {
            Self::Decisions { scale, shift } if (scale, shift) != (1.0, 0.0) => {
                logits.mul_scalar(scale).add_scalar(shift).div_scalar(temperature)
            }
            _ => logits.div_scalar(temperature),
        }
    }

    /// Numbers `[N, classes]`, of which the largest is the class that is named: the logits, or `[0, x]` for a single output `x`.
    pub(crate) fn ranks(self, logits: Tensor<2>) -> Tensor<2> {
        if logits.dims()[1] > 1 {
            return logits;
        }
        let x = self.decisions(logits, 1.0);
        Tensor::cat(vec![x.zeros_like(), x], 1)
    }

    /// The mean divergence over all images at `T = 1`, of logits on the host.
    pub(crate) fn mean_divergence(self, teacher: &Logits, student: &Logits) -> f64 {
        let (mut total, mut count) = (0.0, 0);
        for (student, teacher) in student.beside(teacher) {
            total += self.of_rows(teacher, student);
            count += 1;
        }
        total / f64::from(count.max(1))
    }

    fn of_rows(self, teacher: &[f32], student: &[f32]) -> f64 {
        let double = |row: &[f32]| row.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let (t, s) = (double(teacher), double(student));
        match self {
            Self::Classes => {
                let log_sum = |row: &[f64]| {
                    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    largest + row.iter().map(|v| (v - largest).exp()).sum::<f64>().ln()
                };
                let (of_t, of_s) = (log_sum(&t), log_sum(&s));
                let term = |(t, s): (&f64, &f64)| (t - of_t).exp() * ((t - of_t) - (s - of_s));
                t.iter().zip(&s).map(term).sum()
            }
            Self::Decisions { scale, shift } => {
                // log(sigmoid(x)), without overflow.
                let log = |x: f64| x.min(0.0) - (-x.abs()).exp().ln_1p();
                let side = |t: f64, s: f64| log(t).exp() * (log(t) - log(s));
                let of = |x: f64| scale * x + shift;
                t.iter().zip(&s).map(|(&t, &s)| side(of(t), of(s)) + side(-of(t), -of(s))).sum()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use graph::{Builder, Head, Shape};

    use super::*;
    use crate::evaluate::host;

    fn loss(outputs: usize, last: Option<Op>) -> Loss {
        let mut b = Builder::new("n", Shape::new(3, 2, 2));
        let x = b.push("flatten", Op::Flatten, vec![b.input()]);
        let x = b.linear("fc", outputs, x);
        if let Some(op) = last {
            b.push("last", op, vec![x]);
        }
        Loss::of(&b.finish().unwrap())
    }

    fn logits(rows: &[&[f32]]) -> Tensor<2> {
        let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
        Tensor::from_data(data, &Device::flex())
    }

    #[test]
    fn one_output_and_sigmoids_decide_each_for_itself() {
        let plain = Loss::Decisions { scale: 1.0, shift: 0.0 };
        assert_eq!(loss(3, None), Loss::Classes);
        assert_eq!(loss(3, Some(Op::Softmax)), Loss::Classes);
        assert_eq!(loss(1, None), plain);
        assert_eq!(loss(3, Some(Op::Activation(Activation::Sigmoid))), plain);
        // clamp(x / 6 + 1/2): the decision falls at 0.
        let hard = Op::Activation(Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 });
        assert_eq!(loss(2, Some(hard)), Loss::Decisions { scale: 4.0 / 6.0, shift: 0.0 });
    }

    #[test]
    fn one_output_is_two_classes_of_which_one_has_no_logit() {
        let one = loss(1, None);
        for (t, s) in [(0.3, -1.0), (25.0, -25.0), (-3.0, -3.0), (100.0, 2.0)] {
            let of_two = Loss::Classes.divergence(logits(&[&[0.0, t]]), logits(&[&[0.0, s]]), 2.0);
            let of_one = one.divergence(logits(&[&[t]]), logits(&[&[s]]), 2.0);
            let (of_two, of_one) = (host(of_two)[0], host(of_one)[0]);
            assert!((of_two - of_one).abs() <= 1e-5 * of_two.abs().max(1.0), "{t} {s}: {of_two} {of_one}");
        }
        assert_eq!(host(one.ranks(logits(&[&[0.5], &[-0.5]]))), [0.0, 0.5, 0.0, -0.5]);
    }

    #[test]
    fn the_host_finds_the_same_divergence() {
        let rows: [&[f32]; 2] = [&[0.5, -2.0, 3.0], &[10.0, 0.0, -10.0]];
        let others: [&[f32]; 2] = [&[0.0, -1.0, 2.5], &[-4.0, 6.0, -9.0]];
        for loss in [Loss::Classes, Loss::Decisions { scale: 0.5, shift: 0.25 }] {
            let tensors = host(loss.divergence(logits(&rows), logits(&others), 1.0));
            let head = Head { outputs: graph::Outputs::Logits, count: 3 };
            let of = |rows: [&[f32]; 2]| Logits::new(head, rows.concat());
            let mean = loss.mean_divergence(&of(rows), &of(others));
            let expected = f64::from(tensors[0] + tensors[1]) / 2.0;
            assert!((mean - expected).abs() < 1e-5 * expected, "{loss:?}: {mean} {expected}");
        }
    }
}
