//! What one layer's quantization does to a network, measured and estimated.
use burn::tensor::Device;
use distill::evaluate::predict;
use distill::{Candidates, Context, Error, Fidelity, Method, Part, sensitivity};
use dsconv::Network;
use graph::{Folded, Weights};
use images::Unlabelled;
use model::policy::Rule;
use model::{Info, Model, Plan, Policy};

/// A ResNet-20 a quarter as wide, with random weights.
fn tiny() -> Model {
    let config = zoo::Config { classes: Some(16), width: Some(0.25), ..zoo::Config::new("resnet20") };
    let graph = zoo::build(&config).unwrap();
    let weights = Weights::init(&graph, 1);
    let info = Info { preprocess: images::embedded_preprocess(), classes: vec![], source: "random".into() };
    Model::float(graph, weights, info).unwrap()
}

fn pictures(count: usize) -> Unlabelled {
    images::generated(count, 3, &images::embedded_preprocess(), [32, 32])
}

fn policy(bits: u8) -> Policy {
    toml::from_str(&format!("bits = {bits}\nactivation = {{ bits = {bits} }}")).unwrap()
}

fn plans(network: &Folded, bits: &[u8]) -> Vec<Plan> {
    bits.iter().map(|&bits| policy(bits).resolve(network.graph()).unwrap()).collect()
}

#[test]
fn is_what_the_network_does_with_that_layer_alone_quantized() {
    let (model, images, context) = (tiny(), pictures(5), Context::default());
    let network = model.clone().fold().unwrap();
    let plans = plans(&network, &[3, 8]);
    let candidates = Candidates { network: &network, plans: &plans, parts: &Part::ALL, images: &images };
    let found = sensitivity(&candidates, Method::Exact, &context).unwrap();
    assert_eq!(found.len(), 20 * 2 * 3);
    assert_eq!((found[0].layer.as_str(), found[0].plan, found[0].part), ("conv1", 0, Part::Weights));

    let float = Network::trainable(network.graph(), network.weights(), &Device::flex());
    let teacher = predict("", &[&float], &images, &context).unwrap().remove(0);
    for (layer, part) in [("conv1", Part::Both), ("layer2.0.conv1", Part::Weights), ("linear", Part::Both)] {
        let rules = vec![
            Rule { layers: "*".into(), skip: Some(true), ..Rule::default() },
            Rule { layers: layer.into(), skip: Some(false), ..Rule::default() },
        ];
        let activation = policy(3).activation.filter(|_| part == Part::Both);
        let alone = model.quantize(&Policy { rules, activation, ..policy(3) }).unwrap();
        let student = predict("", &[&Network::new(&alone, &Device::flex())], &images, &context).unwrap().remove(0);
        let expected = Fidelity::of(&student, &teacher, alone.graph());
        let one = found.iter().find(|one| one.layer == layer && one.plan == 0 && one.part == part).unwrap();
        let fidelity = one.fidelity.unwrap();
        assert_eq!((fidelity.images, fidelity.same), (5, expected.same), "{layer}");
        assert!((one.noise / expected.noise - 1.0).abs() < 1e-3, "{layer}: {} {}", one.noise, expected.noise);
        assert!((fidelity.divergence / expected.divergence - 1.0).abs() < 1e-2, "{layer}");
        assert!(one.noise > 1e-4, "{layer}: {}", one.noise);
    }
}

#[test]
fn the_estimate_is_near_where_the_change_is_small() {
    let (model, images, context) = (tiny(), pictures(48), Context::default());
    let network = model.fold().unwrap();
    let plans = plans(&network, &[8]);
    let candidates = Candidates { network: &network, plans: &plans, parts: &[Part::Both], images: &images };
    let exact = sensitivity(&candidates, Method::Exact, &context).unwrap();
    let estimate = sensitivity(&candidates, Method::FirstOrder, &context).unwrap();
    for (exact, estimate) in exact.iter().zip(&estimate) {
        assert_eq!((&exact.layer, estimate.fidelity), (&estimate.layer, None));
        // Of 48 images it is off by a fifth of itself (a standard deviation): 4 of them.
        let ratio = estimate.noise / exact.noise;
        assert!((0.4..1.8).contains(&ratio), "{}: {ratio}", exact.layer);
    }
    let again = sensitivity(&candidates, Method::FirstOrder, &context).unwrap();
    assert_eq!(again, estimate);
}

#[test]
fn what_does_not_fit_is_refused_and_an_interruption_heard() {
    let context = Context::default();
    let network = tiny().fold().unwrap();
    let plans = plans(&network, &[4]);
    let large = images::generated(2, 3, &images::embedded_preprocess(), [40, 40]);
    let candidates = Candidates { network: &network, plans: &plans, parts: &Part::ALL, images: &large };
    let error = sensitivity(&candidates, Method::Exact, &context).unwrap_err();
    assert!(error.to_string().contains("its images are 3x40x40"), "{error}");

    let images = pictures(2);
    let candidates = Candidates { images: &images, ..candidates };
    context.interrupter.stop(None);
    assert!(matches!(sensitivity(&candidates, Method::Exact, &context), Err(Error::Interrupted { .. })));
}
