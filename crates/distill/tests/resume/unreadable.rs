//! Images that turn out to be no images when they are used.
use super::*;

/// Images that are decoded as they are used, of which some turn out to be cut off: the others' labels and what the teacher says
/// of them do not move.
#[test]
fn files_that_cannot_be_read_are_left_out_with_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    let raw = graph::Preprocess::bytes(graph::ChannelOrder::Rgb);
    let options = images::OpenOptions { limit: Some(64), ..images::OpenOptions::default() };
    let set = images::open_labelled("embedded", &raw, &options).unwrap();
    let planes = set.batch(&(0..64).collect::<Vec<_>>()).unwrap().images.pixels;
    for (i, planes) in planes.chunks_exact(3 * 32 * 32).enumerate() {
        let at = |c: usize, x: u32, y: u32| planes[(c * 32 + y as usize) * 32 + x as usize] as u8;
        let class = root.join(images::EMBEDDED_CLASSES[set.labels()[i]]);
        fs::create_dir_all(&class).unwrap();
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([0, 1, 2].map(|c| at(c, x, y))));
        picture.save(class.join(format!("{i:02}.png"))).unwrap();
    }
    let open = |memory| {
        let options = images::OpenOptions { memory, ..images::OpenOptions::default() };
        let set = images::open_labelled(root.to_str().unwrap(), &images::embedded_preprocess(), &options).unwrap();
        let names = images::ClassNames::from(images::EMBEDDED_CLASSES.map(str::to_owned).as_slice());
        set.for_network(16, images::Classes::OfNetwork(&names)).unwrap().set
    };
    let cut = |name: &Path| fs::write(name, &fs::read(name).unwrap()[..200]).unwrap();
    let files = || fs::read_dir(root.join("heart")).unwrap().map(|file| file.unwrap().path());
    // One that is evaluated first of its class, and one more.
    let lazy = open(0);
    let mut bad: Vec<_> = files().collect();
    bad.sort();
    cut(&bad[0]);
    cut(&bad[2]);

    let network = dsconv::Network::new(&teacher(), &Context::default().device);
    let scores = |set: &Labelled| {
        let logits = distill::evaluate::predict("x", &[&network], &set.without_labels(), &Context::default()).unwrap();
        logits[0].scores(Some(set.labels()), &logits[0])
    };
    let (found, expected) = (scores(&lazy), scores(&open(usize::MAX)));
    assert_eq!((found.count, lazy.skipped().len()), (62, 2));
    assert_eq!(found, expected, "as where the files were found bad before");

    let config = AdaptConfig { augment: Augment::default(), fit_images: 64, ..settings() };
    let run = RunFolder::open(folder.path().join("run"), false).unwrap();
    adapted(&teacher(), &Policy::default(), &open(0).without_labels(), &config, &run, &Context::default()).unwrap();
}

#[test]
fn an_image_that_cannot_be_read_leaves_with_its_label() {
    let (pictures, measured, root) = (Pictures::new(40), Pictures::new(12), tempfile::tempdir().unwrap());
    let preprocess = images::embedded_preprocess();
    let config = DistillConfig { adapt: settings(), ..DistillConfig::default() };
    let adapt = images::open_unlabelled(&pictures.spec(), &preprocess, &pictures.lazy()).unwrap();
    let eval = images::open_labelled(&measured.spec(), &preprocess, &measured.lazy()).unwrap();
    // Found bad when they are used. The second is held out, or not: one of the sets has both.
    let spoil = |file: &Path| fs::write(file, "no picture").unwrap();
    spoil(&pictures.file(6));
    spoil(&pictures.file(11));
    spoil(&measured.file(5));
    let run = |name: &str, adapt: &Unlabelled, eval: &Labelled| {
        let folder = RunFolder::open(root.path().join(name), false)?;
        let eval = Eval::Labelled(eval.clone());
        distilled(&teacher(), adapt, &eval, &config, &folder, &Context::default())
    };
    let report = run("some", &adapt, &eval).unwrap();
    let left_out = |skipped: Vec<images::Skipped>| skipped.into_iter().map(|file| file.path).collect::<Vec<_>>();
    let mut of_adapt = left_out(adapt.skipped());
    of_adapt.sort();
    assert_eq!(of_adapt, [pictures.file(6), pictures.file(11)]);
    assert_eq!(left_out(eval.skipped()), [measured.file(5)]);
    // The same as without that image.
    fs::remove_file(measured.file(5)).unwrap();
    let fewer = images::open_labelled(&measured.spec(), &preprocess, &measured.lazy()).unwrap();
    let expected = run("fewer", &adapt, &fewer).unwrap();
    assert_eq!((report.fp32.scores.count, &report.fp32.scores), (11, &expected.fp32.scores));
    assert_eq!(report.adapted.scores, expected.adapted.scores);

    // More than may be: an error that names one, not a smaller set.
    (20..32).for_each(|i| spoil(&pictures.file(i)));
    let adapt = images::open_unlabelled(&pictures.spec(), &preprocess, &pictures.lazy());
    let error = adapt.map_err(Error::from).and_then(|adapt| run("none", &adapt, &fewer)).unwrap_err();
    assert!(matches!(error, Error::Images(_) | Error::Training(_)), "{error}");
    assert!(error.to_string().contains(".png"), "{error}");
}
