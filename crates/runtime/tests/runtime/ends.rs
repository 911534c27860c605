//! Every way a network can end, and random graphs whose values share memory: every kernel gives the interpreter's bits, or
//! the error that it gives.
use blockfloat::SplitMix64;
use graph::{Activation, Builder, Conv2d, Graph, NodeId, Op, Pool2d, Shape};
use model::{Model, Policy};
use zoo::testing::{formula_input, formula_weights};

use crate::ops::info;
use crate::plain;

/// Appends an operation to a node, where it fits.
type Append = fn(&mut Builder, &str, NodeId) -> Option<NodeId>;
type Operation = (String, Box<dyn Fn(&mut Builder, &str, NodeId) -> Option<NodeId>>);

fn slice(b: &mut Builder, name: &str, x: NodeId, start: usize, channels: usize) -> NodeId {
    b.push(name, Op::Slice { start, channels }, vec![x])
}

fn global(b: &mut Builder, name: &str, x: NodeId) -> NodeId {
    b.push(name, Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x])
}

/// Every operation, and the ways it meets views of a value.
fn appends() -> Vec<Operation> {
    let others: Vec<(&str, Append)> = vec![
        ("conv", |b, n, x| Some(b.conv(n, Conv2d::new(b.channels(x), 9, 3).padding(1).bias(), x))),
        ("pointwise", |b, n, x| Some(b.conv(n, Conv2d::new(b.channels(x), 20, 1), x))),
        ("strided", |b, n, x| Some(b.conv(n, Conv2d::new(b.channels(x), 17, 3).padding(1).stride(2), x))),
        ("depthwise", |b, n, x| {
            let c = b.channels(x);
            Some(b.conv(n, Conv2d { groups: c, ..Conv2d::new(c, c, 3).padding(1) }, x))
        }),
        ("grouped", |b, n, x| {
            let c = b.channels(x);
            c.is_multiple_of(2).then(|| b.conv(n, Conv2d { groups: 2, ..Conv2d::new(c, 6, 1).bias() }, x))
        }),
        ("residual", |b, n, x| {
            let c = b.channels(x);
            let y = b.conv(format!("{n}.conv"), Conv2d::new(c, c, 3).padding(1), x);
            let y = b.push(n, Op::Add, vec![y, x]);
            Some(b.relu(format!("{n}.relu"), y))
        }),
        ("linear", |b, n, x| {
            let Shape { height, width, .. } = b.shape(x);
            (height == 1 && width == 1).then(|| b.linear(n, 11, x))
        }),
        ("affine", |b, n, x| Some(b.push(n, Op::Affine { channels: b.channels(x) }, vec![x]))),
        ("relu", |b, n, x| Some(b.relu(n, x))),
        ("prelu", |b, n, x| Some(b.push(n, Op::PRelu { channels: b.channels(x) }, vec![x]))),
        ("softmax", |b, n, x| Some(b.push(n, Op::Softmax, vec![x]))),
        ("lrn", |b, n, x| Some(b.push(n, Op::Lrn { size: 5, alpha: 0.5, beta: 0.75, k: 2.0 }, vec![x]))),
        ("max_pool", |b, n, x| Some(b.max_pool(n, Pool2d::new(2, 2).padding(1).ceil_mode(), x))),
        ("avg_pool", |b, n, x| Some(b.push(n, Op::AvgPool2d(Pool2d::new(3, 1).padding(1)), vec![x]))),
        ("global", |b, n, x| Some(global(b, n, x))),
        ("adaptive", |b, n, x| Some(b.push(n, Op::AdaptiveAvgPool2d { output: [2, 3] }, vec![x]))),
        ("add_itself", |b, n, x| Some(b.push(n, Op::Add, vec![x, x]))),
        ("max_relu", |b, n, x| {
            let y = b.relu(format!("{n}.relu"), x);
            Some(b.push(n, Op::Max, vec![x, y]))
        }),
        ("add_relu", |b, n, x| {
            let y = b.relu(format!("{n}.relu"), x);
            Some(b.push(n, Op::Add, vec![x, y]))
        }),
        ("mul_itself", |b, n, x| Some(b.push(n, Op::Mul, vec![x, x]))),
        ("gate", |b, n, x| {
            let y = global(b, &format!("{n}.mean"), x);
            Some(b.push(n, Op::Mul, vec![x, y]))
        }),
        ("concat_one", |b, n, x| Some(b.push(n, Op::Concat, vec![x]))),
        ("concat_twice", |b, n, x| Some(b.push(n, Op::Concat, vec![x, x]))),
        ("concat_slice", |b, n, x| {
            let y = slice(b, &format!("{n}.slice"), x, 1, b.channels(x) - 1);
            Some(b.push(n, Op::Concat, vec![x, y]))
        }),
        ("concat_relu", |b, n, x| {
            let y = b.relu(format!("{n}.relu"), x);
            Some(b.push(n, Op::Concat, vec![y, x, y]))
        }),
        ("concat_halves", |b, n, x| {
            let c = b.channels(x);
            let low = slice(b, &format!("{n}.low"), x, 0, c / 2);
            let high = slice(b, &format!("{n}.high"), x, c / 2, c - c / 2);
            let high = b.relu(format!("{n}.relu"), high);
            Some(b.push(n, Op::Concat, vec![high, low]))
        }),
        ("add_slices", |b, n, x| {
            let c = b.channels(x);
            let low = slice(b, &format!("{n}.low"), x, 0, c - 1);
            let high = slice(b, &format!("{n}.high"), x, 1, c - 1);
            Some(b.push(n, Op::Add, vec![low, high]))
        }),
        ("slice_low", |b, n, x| Some(slice(b, n, x, 0, b.channels(x) - 1))),
        ("slice_high", |b, n, x| Some(slice(b, n, x, 2, b.channels(x) - 2))),
        ("slice_slice", |b, n, x| {
            let y = slice(b, &format!("{n}.outer"), x, 1, b.channels(x) - 1);
            Some(slice(b, n, y, 1, b.channels(y) - 1))
        }),
        ("shuffle", |b, n, x| b.channels(x).is_multiple_of(2).then(|| b.push(n, Op::Shuffle { groups: 2 }, vec![x]))),
        ("pad", |b, n, x| Some(b.push(n, Op::Pad2d { sides: [1, 0, 2, 1], value: 0.5 }, vec![x]))),
        ("pad_shortcut", |b, n, x| Some(b.push(n, Op::PadShortcut { stride: 2, before: 1, after: 2 }, vec![x]))),
        ("flatten", |b, n, x| Some(b.push(n, Op::Flatten, vec![x]))),
        ("dropout", |b, n, x| Some(b.push(n, Op::Dropout { p: 0.5 }, vec![x]))),
    ];
    let activation = |function: Activation| -> Operation {
        (format!("{function:?}"), Box::new(move |b, n, x| Some(b.push(n, Op::Activation(function), vec![x]))))
    };
    let others = others.into_iter().map(|(name, append)| -> Operation { (name.to_owned(), Box::new(append)) });
    others.chain(Activation::examples().into_iter().map(activation)).collect()
}

/// A function that begins a graph.
type Start = fn() -> (Builder, NodeId);

/// What stands before the last operations: an image, features, pooled features, a vector, the middle of a head.
fn bases() -> Vec<(&'static str, Start)> {
    fn features(mut b: Builder) -> (Builder, NodeId) {
        let x = b.conv("base", Conv2d::new(6, 12, 3).padding(1), b.input());
        let x = b.relu("base.relu", x);
        (b, x)
    }
    vec![
        ("image", || {
            let b = Builder::new("image", Shape::new(6, 5, 7));
            let x = b.input();
            (b, x)
        }),
        ("features", || features(Builder::new("features", Shape::new(6, 5, 7)))),
        ("pooled", || {
            let (mut b, x) = features(Builder::new("pooled", Shape::new(6, 5, 7)));
            let x = global(&mut b, "base.pool", x);
            (b, x)
        }),
        ("vector", || {
            let b = Builder::new("vector", Shape::new(24, 1, 1));
            let x = b.input();
            (b, x)
        }),
        ("head", || {
            let mut b = Builder::new("head", Shape::new(24, 1, 1));
            let x = b.linear("base", 16, b.input());
            (b, x)
        }),
    ]
}

/// How near the engine is to the interpreter: functions with transcendentals are only near it, and a rounding behind
/// them may go the other way.
fn exactness(graph: &Graph) -> Exactness {
    let near = graph.nodes().iter().position(|node| {
        use Activation::{Elu, Sigmoid, Silu, Softplus, Tanh};
        matches!(node.op, Op::Softmax | Op::Lrn { .. } | Op::Activation(Sigmoid | Silu | Tanh | Elu { .. } | Softplus))
    });
    let rounds = |from: usize| graph.nodes()[from..].iter().any(|n| matches!(n.op, Op::Conv2d(_) | Op::Linear { .. }));
    match near {
        None => Exactness::Bits,
        Some(from) if rounds(from) => Exactness::Kernels,
        Some(_) => Exactness::Near,
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Exactness {
    Bits,
    Near,
    /// Only kernels are compared with each other.
    Kernels,
}

fn model(graph: Graph, policy: &Policy) -> Model {
    let weights = formula_weights(&graph);
    let quantizable = graph.nodes().iter().any(|n| matches!(n.op, Op::Conv2d(_) | Op::Linear { .. }));
    let float = Model::float(graph, weights, info()).unwrap();
    if quantizable { float.quantize(policy).unwrap() } else { float }
}

/// Checks all kernels with one and three threads against the interpreter; returns whether that had a finite result.
pub fn check(model: &Model, input: &[f32], name: &str) -> bool {
    let one = model.graph().input().elements();
    let expected: Result<Vec<Vec<f32>>, String> = input.chunks(one).map(|image| plain::try_run(model, image)).collect();
    let expected = expected.map(|rows| rows.concat());
    let exactness = exactness(model.graph());
    let mut first: Option<Result<Vec<u32>, String>> = None;
    for kernel in runtime::kernels() {
        let engine = runtime::Model::with_kernel(model.clone(), Some(kernel)).unwrap();
        for threads in [1, 3] {
            let mut session = engine.session(crate::threads(threads)).unwrap();
            // A second run finds the buffers as the first one left them.
            for _ in 0..2 {
                let found = session.run(input).map(<[f32]>::to_vec).map_err(|error| error.to_string());
                let at = format!("{name}: {kernel}, {threads} threads");
                match (&found, &expected) {
                    (Err(_), Err(_)) => {}
                    (Ok(found), Ok(expected)) => {
                        assert_eq!(found.len(), expected.len(), "{at}");
                        let differs = |a: f32, b: f32| match exactness {
                            Exactness::Bits => a.to_bits() != b.to_bits(),
                            Exactness::Near => (a - b).abs() > 1e-5 * a.abs().max(b.abs()).max(1.0),
                            Exactness::Kernels => false,
                        };
                        let wrong = found.iter().zip(expected).position(|(a, b)| differs(*a, *b));
                        if let Some(i) = wrong {
                            panic!("{at}: element {i} is {}, not {}", found[i], expected[i]);
                        }
                    }
                    _ if exactness == Exactness::Kernels => {}
                    _ => panic!("{at}: {found:?}, not {expected:?}"),
                }
                let bits = found.map(|found| found.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                assert!(*first.get_or_insert(bits.clone()) == bits, "{at}: {bits:?}, not {first:?}");
            }
        }
    }
    expected.is_ok()
}

#[test]
fn a_network_may_end_in_any_two_operations() {
    let (mut checked, mut graphs) = (0, 0);
    for (base, start) in bases() {
        for (first_name, first) in appends() {
            let seconds = appends().into_iter().map(|(name, append)| (name, Some(append)));
            for (second_name, second) in seconds.chain([(String::new(), None)]) {
                if crate::quick() && second.is_some() {
                    continue;
                }
                let (mut b, x) = start();
                let Some(x) = first(&mut b, "first", x) else { continue };
                if second.is_some_and(|second| second(&mut b, "second", x).is_none()) {
                    continue;
                }
                let name = format!("{base} {first_name} {second_name}");
                let graph = match b.finish() {
                    Ok(graph) => graph,
                    // A window that does not fit.
                    Err(graph::GraphError::Shape { .. }) => continue,
                    Err(error) => panic!("{name}: {error}"),
                };
                let Shape { channels, height, width } = graph.input();
                let model = model(graph, &Policy::default());
                let input = formula_input([2, channels, height, width]);
                checked += usize::from(check(&model, input.data(), &name));
                graphs += 1;
            }
        }
    }
    let least = if crate::quick() { 100 } else { 5000 };
    assert!(checked == graphs && graphs >= least, "{checked} of {graphs}");
}

struct Random(SplitMix64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }
}

/// A graph of random operations, each on any value so far, all values joined at the end.
fn random_graph(random: &mut Random) -> Option<Graph> {
    let appends = appends();
    let side = [1, 1, 4, 6][random.below(4)];
    let mut b = Builder::new("random", Shape::new(2 + random.below(20), side, side + random.below(2)));
    let mut values = vec![b.input()];
    let mut used = vec![false];
    for i in 0..2 + random.below(9) {
        // Mostly a late value.
        let at = values.len() - 1 - random.below(values.len()).min(random.below(values.len()));
        let (x, name) = (values[at], format!("n{i}"));
        let shape = b.shape(x);
        if shape.channels < 4 || shape.channels > 200 {
            continue;
        }
        let same = |b: &Builder, y: &NodeId| b.shape(*y) == shape;
        let size = |b: &Builder, y: &NodeId| [b.shape(*y).height, b.shape(*y).width] == [shape.height, shape.width];
        let others: Vec<usize> = (0..values.len()).filter(|&y| same(&b, &values[y])).collect();
        let alike: Vec<usize> = (0..values.len()).filter(|&y| size(&b, &values[y])).collect();
        let y = match random.below(4) {
            0 => {
                let other = others[random.below(others.len())];
                used[other] = true;
                let op = if random.below(3) == 0 { Op::Mul } else { Op::Add };
                Some(b.push(name, op, vec![x, values[other]]))
            }
            1 => {
                let parts: Vec<usize> = (0..1 + random.below(3)).map(|_| alike[random.below(alike.len())]).collect();
                parts.iter().for_each(|&part| used[part] = true);
                let mut inputs: Vec<NodeId> = parts.iter().map(|&part| values[part]).collect();
                inputs.insert(random.below(inputs.len() + 1), x);
                Some(b.push(name, Op::Concat, inputs))
            }
            _ => appends[random.below(appends.len())].1(&mut b, &name, x),
        };
        if let Some(y) = y {
            used[at] = true;
            values.push(y);
            used.push(false);
        }
    }
    let ends: Vec<NodeId> = values.iter().zip(&used).filter(|(_, used)| !**used).map(|(x, _)| *x).collect();
    let same_size =
        |x: &NodeId| [b.shape(*x).height, b.shape(*x).width] == [b.shape(ends[0]).height, b.shape(ends[0]).width];
    match ends.len() {
        1 => {}
        _ if ends.iter().all(same_size) && random.below(2) == 0 => drop(b.push("end", Op::Concat, ends)),
        _ => {
            let pooled = ends.iter().enumerate().map(|(i, x)| global(&mut b, &format!("end{i}"), *x)).collect();
            b.push("end", Op::Concat, pooled);
        }
    }
    b.finish().ok()
}

#[test]
fn values_that_share_memory_are_kept_apart() {
    let asked = std::env::var("DSCONV_TEST_GRAPHS").ok().and_then(|n| n.parse().ok());
    let count = asked.unwrap_or(if crate::quick() { 10 } else { 400 });
    let policies = [
        "bits = 4\nblock = 16\nactivation = { block = 16 }",
        "bits = 5\nscales = \"two_level\"\nactivation = { block = \"pixel\" }",
        "bits = 3\nblock = 5\nactivation = { bits = 6, block = 5, scale = \"pow2\" }",
        "activation = false",
    ];
    let policies: Vec<Policy> = policies.iter().map(|text| toml::from_str(text).unwrap()).collect();
    let mut finite = 0;
    for seed in 0..count {
        let mut random = Random(SplitMix64::new(seed));
        let Some(graph) = random_graph(&mut random) else { continue };
        let Shape { channels, height, width } = graph.input();
        let model = model(graph, &policies[random.below(policies.len())]);
        let mut input = formula_input([2, channels, height, width]);
        // Some inputs are so large that sums leave the range of floats.
        let scale = [1.0, 1.0, 1.0, 1e10, 1e30, 3e38][random.below(6)];
        input.data_mut().iter_mut().for_each(|x| *x *= scale);
        finite += u64::from(check(&model, input.data(), &format!("seed {seed}")));
    }
    assert!(finite > count / 3 && finite < count, "{finite} of {count} are finite");
}
