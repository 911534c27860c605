//! Images and class folders as people have them: what is evaluated, what is refused, and what is said.

use std::path::Path;

use graph::{Builder, Op, Pool2d, Preprocess, Shape, Tensor, Weights};
use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use model::{Info, Model, SaveOptions};

use super::{Place, Ran};

/// A network of four classes whose answer is the brightest quarter of the image: top left, top right, bottom left, bottom
/// right.
fn quarter(input: Shape) -> Model {
    let mut b = Builder::new("quarter", input);
    let kernel = [input.height / 2, input.width / 2];
    let pool = Pool2d { kernel, stride: kernel, ..Pool2d::new(1, 1) };
    let x = b.push("pool", Op::AvgPool2d(pool), vec![b.input()]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("fc", 4, x);
    let graph = b.finish().unwrap();
    let mut weights = Weights::default();
    let eye = (0..4).flat_map(|row| (0..4 * input.channels).map(move |column| f32::from(u8::from(column % 4 == row))));
    weights.insert("fc.weight", Tensor::new([4, 4 * input.channels], eye.collect()));
    weights.insert("fc.bias", Tensor::new([4], vec![0.0; 4]));
    let preprocess = if input.channels == 1 { Preprocess::grey() } else { Preprocess::imagenet_statistics() };
    Model::float(graph, weights, Info { preprocess, classes: vec![], source: "made for a test".into() }).unwrap()
}

/// A picture whose brightest quarter is that of the class.
fn picture(class: u32, [height, width]: [u32; 2]) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let bright = (2 * (2 * y / height) + 2 * x / width) == class;
        Rgb([if bright { 200 } else { 40 }; 3])
    })
}

impl Place {
    fn quarter(&self) {
        files::save(&quarter(Shape::new(3, 32, 32)), self.path("quarter.safetensors"), &SaveOptions::default())
            .unwrap();
    }

    /// Writes two pictures of each class into folders of these names.
    fn pictures(&self, root: &str, classes: &[(&str, u32)]) {
        for (name, class) in classes {
            std::fs::create_dir_all(self.path(root).join(name)).unwrap();
            for i in 0..2 {
                picture(*class, [32, 32]).save(self.path(root).join(name).join(format!("{i}.png"))).unwrap();
            }
        }
    }

    fn eval(&self, data: &str, more: &[&str]) -> Ran {
        self.run(&[&["eval", "quarter.safetensors", "--data", data, "--json"], more].concat())
    }
}

/// Returns the top-1 accuracy of a command that succeeds.
#[track_caller]
fn top1(ran: &Ran) -> f64 {
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()["top1"].as_f64().unwrap()
}

#[track_caller]
fn refused(ran: &Ran, what: &str, hint: &str) {
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains(what) && ran.err.contains(hint), "{}", ran.err);
}

const ALL: [(&str, u32); 4] = [("a", 0), ("b", 1), ("c", 2), ("d", 3)];

#[test]
fn labels_never_move() {
    let place = Place::new();
    place.quarter();
    place.pictures("full", &ALL);
    assert_eq!(top1(&place.eval("full", &[])), 100.0);

    place.pictures("without_b", &[ALL[0], ALL[2], ALL[3]]);
    let hint = "`--classes FILE` (in a config: `classes`)";
    refused(&place.eval("without_b", &[]), "3 class folders (`a`, `c`, `d`), the network has 4 classes", hint);
    std::fs::create_dir(place.path("without_b/b")).unwrap();
    let ran = place.eval("without_b", &[]);
    assert_eq!(top1(&ran), 100.0);
    assert!(ran.err.contains("without_b: no images in `b`"), "{}", ran.err);

    place.pictures("subset", &[ALL[2], ALL[3]]);
    place.write("names.txt", "a\nb\nc\nd\n");
    assert_eq!(top1(&place.eval("subset", &["--classes", "names.txt"])), 100.0);
    // In an order of its own, and behind numbers.
    place.pictures("other", &[("01_left_below", 2), ("02_Right-Below", 3), ("03_top", 1)]);
    place.write("names.json", r#"{"0": "first", "1": "top", "2": "left below", "3": "right below"}"#);
    assert_eq!(top1(&place.eval("other", &["--classes", "names.json"])), 100.0);
    refused(
        &place.eval("full", &["--classes", "names.json"]),
        "no class of the network is called `a`, `b`, `c`, `d`",
        hint,
    );
    assert_eq!(top1(&place.eval("full", &["--classes", "folders"])), 100.0);
    place.write("three.txt", "a\nb\nc\n");
    place.write("twice.txt", "crane\nheron\ncrane\nstork\n");
    let ran = place.run(&["predict", "quarter.safetensors", "full/a/0.png", "--classes", "twice.txt"]);
    let both = "classes 0 and 2 are both called `crane`: only their numbers tell them apart\n";
    assert!(ran.code == Some(0) && ran.err.contains(both), "{}", ran.err);

    let ran = place.eval("full", &["--classes", "three.txt"]);
    assert!(ran.code == Some(2) && ran.err.contains("3 class names are given, `quarter` has 4 classes"), "{}", ran.err);
}

#[test]
fn a_folder_above_the_classes_is_refused() {
    let place = Place::new();
    place.quarter();
    place.pictures("parent/train", &ALL);
    place.pictures("parent/val", &ALL);
    refused(&place.eval("parent", &[]), "`train`, `val` look like parts of a data set", "such as `parent/val`");
    place.pictures("zip/photos", &ALL);
    refused(&place.eval("zip", &[]), "1 class folder (`photos`)", "perhaps `zip/photos` is meant");
}

#[cfg(unix)]
#[test]
fn links_repeat_no_images() {
    let place = Place::new();
    place.quarter();
    place.pictures("full", &ALL);
    std::os::unix::fs::symlink(place.path("full"), place.path("full/a/up")).unwrap();
    std::os::unix::fs::symlink(place.path("full/a"), place.path("full/z")).unwrap();
    let ran = place.eval("full", &[]);
    assert_eq!(top1(&ran), 100.0);
    assert!(ran.out.contains("\"count\": 8"), "{}", ran.out);
    assert!(ran.err.contains("a link to a folder above: not followed"), "{}", ran.err);
}

#[test]
fn a_list_of_classes_beside_class_folders_is_one() {
    let place = Place::new();
    place.quarter();
    place.pictures("set", &[("cat", 3), ("dog", 0), ("eel", 2), ("fox", 1)]);
    place.write("set/labels.txt", "0 dog\n1 fox\n2 eel\n3 cat\n");
    let ran = place.eval("set", &[]);
    assert_eq!(top1(&ran), 100.0);
    assert!(ran.err.contains("labels.txt gives the order of the classes"), "{}", ran.err);
}

#[test]
fn names_are_kept_in_every_file_and_shown() {
    let place = Place::new();
    place.quarter();
    place.write("names.txt", "lion\ntiger\nbear\nwolf\n");
    picture(2, [32, 32]).save(place.path("bear.png")).unwrap();
    let named = ["--classes", "names.txt", "-o"];
    for (command, file) in [
        (&["quantize", "quarter.safetensors"][..], "q.safetensors"),
        (&["quantize", "quarter.safetensors"], "q.dsc"),
        (&["export", "quarter.safetensors"], "f.onnx"),
        (&["export", "quarter.safetensors"], "f.safetensors"),
    ] {
        let ran = place.run(&[command, &named, &[file]].concat());
        assert_eq!(ran.code, Some(0), "{command:?} {file}: {}", ran.err);
        if !file.ends_with(".onnx") {
            let top = &place.json(&["predict", file, "bear.png"])[0]["top"][0];
            assert_eq!((&top["index"], &top["name"]), (&2.into(), &"bear".into()), "{file}");
            assert_eq!(files::load(place.path(file)).unwrap().info().classes, ["lion", "tiger", "bear", "wolf"]);
        }
    }
    // Folders of some of the classes are then enough.
    place.pictures("some", &[("bear", 2), ("Wolf", 3)]);
    let ran = place.run(&["eval", "q.dsc", "--data", "some", "--json"]);
    assert_eq!(top1(&ran), 100.0);
}

#[test]
fn images_of_another_size_are_resized_and_that_is_said() {
    let place = Place::new();
    place.quarter();
    for (name, size) in [("64.png", [64, 64]), ("90x60.png", [60, 90]), ("20.png", [20, 20]), ("32.png", [32, 32])] {
        picture(2, size).save(place.path(name)).unwrap();
        let ran = place.run(&["predict", "quarter.safetensors", name, "--json"]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.out.contains("\"index\": 2"), "{name}: {}", ran.out);
        assert!(!ran.err.contains(".tmp"), "{}", ran.err);
        assert_eq!(ran.err.contains("images are resized to 32 and 32"), name != "32.png", "{}", ran.err);
    }
    // Said by the user: nothing to say.
    let ran = place.run(&["predict", "quarter.safetensors", "90x60.png", "--resize", "32,32"]);
    assert!(ran.code == Some(0) && ran.err.is_empty(), "{}", ran.err);
    place.pictures("set", &ALL);
    picture(2, [64, 64]).save(place.path("set/c/large.png")).unwrap();
    let ran = place.eval("set", &[]);
    assert_eq!(top1(&ran), 100.0);
    assert!(ran.err.contains("large.png is 64 wide and 64 high: images are resized to 32 and 32"), "{}", ran.err);
}

#[test]
fn an_image_is_judged_by_its_content() {
    let place = Place::new();
    place.quarter();
    let mut jpeg = std::io::Cursor::new(Vec::new());
    picture(2, [32, 32]).write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
    for name in ["upload", "photo.jfif", "photo.jpe", "photo.png", "photo.jpg_large", "photo.txt"] {
        std::fs::write(place.path(name), jpeg.get_ref()).unwrap();
        let found = place.json(&["predict", "quarter.safetensors", name]);
        assert_eq!(found[0]["top"][0]["index"], 2, "{name}");
    }
    place.pictures("set", &ALL);
    for name in ["0.jfif", "1.jpe", "upload"] {
        std::fs::write(place.path("set/c").join(name), jpeg.get_ref()).unwrap();
    }
    let ran = place.eval("set", &[]);
    assert!(top1(&ran) == 100.0 && ran.out.contains("\"count\": 10"), "{}", ran.out);
    assert!(ran.err.contains("upload: an image by its content"), "{}", ran.err);
}

#[test]
fn the_pictures_of_a_folder_are_classified_but_for_broken_ones() {
    let place = Place::new();
    place.quarter();
    place.pictures("set", &ALL);
    let found = place.json(&["predict", "quarter.safetensors", "set", "set/a/0.png"]);
    let classes: Vec<(&str, u64)> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|found| (found["image"].as_str().unwrap(), found["top"][0]["index"].as_u64().unwrap()))
        .collect();
    let sorted = [("a", 0), ("b", 1), ("c", 2), ("d", 3)];
    let expected: Vec<(String, u64)> =
        sorted.iter().flat_map(|(name, class)| (0..2).map(move |i| (format!("set/{name}/{i}.png"), *class))).collect();
    assert_eq!(classes[..8], expected.iter().map(|(name, class)| (name.as_str(), *class)).collect::<Vec<_>>());
    assert_eq!(classes[8..], [("set/a/0.png", 0)]);

    place.write("set/b/1.png", "no picture");
    place.write("set/c/note.gif", "GIF89a");
    let ran = place.run(&["predict", "quarter.safetensors", "set", "nothing.png", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let found = found.as_array().unwrap();
    assert_eq!((ran.code, found.len()), (Some(1), 9));
    for (at, image, why) in [(3, "set/b/1.png", "not an image"), (8, "nothing.png", "No such file")] {
        let entry = &found[at];
        assert!(entry["image"] == image && entry["error"].as_str().unwrap().contains(why), "{entry}");
    }
    for entry in found.iter().filter(|entry| entry.get("error").is_none()) {
        let class = entry["top"][0]["index"].as_u64().unwrap() as usize;
        assert!(
            entry["image"].as_str().unwrap().starts_with(&format!("set/{}/", ["a", "b", "c", "d"][class])),
            "{entry}"
        );
    }
    assert!(
        ran.err.contains("set/b/1.png: not an image") && ran.err.contains("nothing.png: No such file"),
        "{}",
        ran.err
    );
    assert!(ran.err.trim_end().ends_with("error: 2 of 9 pictures could not be read"), "{}", ran.err);
    let ran = place.run(&["predict", "quarter.safetensors", "set/b/1.png", "nothing.png"]);
    let none = "error: none of 2 pictures can be read, `set/b/1.png`: not an image: neither JPEG, PNG, BMP nor WebP";
    ran.refuses(1, none);
}

#[test]
fn two_networks_are_compared_on_images_without_labels() {
    let place = Place::new();
    place.quarter();
    place.pictures("set", &ALL);
    std::fs::create_dir(place.path("flat")).unwrap();
    for (at, (class, _)) in ALL.iter().enumerate() {
        std::fs::copy(place.path(&format!("set/{class}/0.png")), place.path(&format!("flat/{at}.png"))).unwrap();
    }
    let quantize = ["quantize", "quarter.safetensors", "--images", "flat", "-o", "q.dsc"];
    let ran = place.run(&quantize);
    // What it advises works with the folder that it was given.
    assert!(ran.err.contains("`dsconv eval q.dsc --data DATA --against quarter.safetensors`"), "{}", ran.err);
    let args = ["eval", "q.dsc", "--data", "flat", "--against", "quarter.safetensors"];
    let ran = place.run(&[&args[..], &["--html", "compared.html"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.err.contains("flat has no labels: the two networks are compared, accuracy is not measured"),
        "{}",
        ran.err
    );
    assert!(!ran.out.contains("top-1") && !ran.out.contains("won/lost") && !ran.err.contains("McNemar"), "{}", ran.out);
    let found = place.json(&args);
    assert_eq!((&found["count"], &found["agreement"]), (&4.into(), &100.0.into()));
    assert!(found["sqnr_db"].is_number() && found["difference"]["largest"].is_number(), "{found}");
    for key in ["top1", "top5", "flips", "p_value"] {
        assert!(found.get(key).is_none_or(serde_json::Value::is_null), "{found}");
    }
    let page = std::fs::read_to_string(place.path("compared.html")).unwrap();
    assert!(page.contains("Compared on 4 images of flat, which have no labels."));
    let ran = place.run(&args[..4]);
    refused(&ran, "flat: the images have no labels", "`--against MODEL` compares with another network");
    // Of one stem, the endings tell them apart.
    place.json(&["quantize", "quarter.safetensors", "--images", "none", "-o", "q.safetensors"]);
    let found = place.json(&["eval", "q.dsc", "--data", "flat", "--against", "q.safetensors"]);
    assert_eq!((&found["model"], &found["against"]), (&"q.dsc".into(), &"q.safetensors".into()));
}

#[test]
fn a_label_that_is_no_class_is_shown() {
    let place = Place::new();
    place.quarter();
    place.pictures("set", &ALL);
    let rows = |last: &str| format!("file,label\na/0.png,0\na/1.png,0\nb/0.png,1\nb/1.png,{last}\nc/0.png,2\n");
    for wrong in ["-1", "four"] {
        place.write("set/labels.csv", &rows(wrong));
        let what = format!("set/labels.csv:5: `{wrong}` is no class index, as the other labels are");
        refused(&place.eval("set", &[]), &what, "");
    }
    place.write("set/labels.csv", &rows("4"));
    refused(
        &place.eval("set", &[]),
        "set: `b/1.png` has the label 4, the network 4 classes: 0 to 3",
        "labels are counted from 0",
    );
}

#[test]
fn a_table_may_label_a_part_of_a_folder() {
    let place = Place::new();
    place.quarter();
    place.pictures("set", &ALL);
    place.write("set/labels.csv", "file,label\na/0.png,0\nc/0.png,2\nc/1.png,3\nlost.png,1\n");
    let ran = place.eval("set", &[]);
    assert!((top1(&ran) - 200.0 / 3.0).abs() < 1e-9 && ran.out.contains("\"count\": 3"), "{}", ran.out);
    assert!(
        ran.err.contains("set: 5 of 8 images are not listed in set/labels.csv, `a/1.png`, ...: left out"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("set/labels.csv lists `lost.png`, which is not in set"), "{}", ran.err);
    place.write("set/labels.csv", "file,label\nx/0.png,0\n");
    refused(
        &place.eval("set", &[]),
        "set: the images have no labels",
        "set/labels.csv lists `x/0.png`, the images are",
    );
}

#[test]
fn each_of_two_models_gets_its_images_as_it_is_said() {
    let place = Place::new();
    place.quarter();
    place.pictures("set", &ALL);
    let quarter = quarter(Shape::new(3, 32, 32));
    let exported = onnx::export(&quarter, &onnx::Profile::Fp32).unwrap();
    std::fs::write(place.path("same.onnx"), &exported).unwrap();
    let ran = place.eval("set", &["--against", "same.onnx"]);
    assert!(top1(&ran) == 100.0 && !ran.err.contains("gets its images"), "{}", ran.err);
    let ran = place.eval("set", &["--against", "same.onnx", "--mean", "0.5", "--std", "0.5"]);
    let [first, second] = [
        "quarter gets its images as the options say: resized to a shorter side of 32, cut to 32x32; rgb / 255, mean [0.5, 0.5, 0.5]",
        "same gets its images as its file says: resized to a shorter side of 32, cut to 32x32; rgb / 255, mean [0.485, 0.456, 0.406]",
    ];
    assert!(ran.err.contains(first) && ran.err.contains(second), "{}", ran.err);
}

#[test]
fn grey_networks_take_grey_images() {
    let place = Place::new();
    files::save(&quarter(Shape::new(1, 28, 28)), place.path("grey.safetensors"), &SaveOptions::default()).unwrap();
    picture(2, [28, 28]).save(place.path("colour.png")).unwrap();
    GrayImage::from_fn(28, 28, |x, y| Luma([if y >= 14 && x < 14 { 200 } else { 40 }]))
        .save(place.path("grey.png"))
        .unwrap();
    for name in ["colour.png", "grey.png"] {
        let found = place.json(&["predict", "grey.safetensors", name, "--logits"]);
        let logits: Vec<f64> = found[0]["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        // (40 / 255 - 0.5) / 0.5, and of 200 in the quarter.
        for (class, logit) in logits.into_iter().enumerate() {
            let byte = if class == 2 { 200.0 } else { 40.0 };
            assert!((logit - (byte / 255.0 - 0.5) / 0.5).abs() < 1e-6, "{name}: {logit}");
        }
    }
    let mean = ["--mean", "0.1307", "--std", "0.3081"];
    let ran = place.run(&[&["quantize", "grey.safetensors", "-o", "grey.dsc"], &mean[..]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(place.json(&["predict", "grey.dsc", "colour.png"])[0]["top"][0]["index"], 2);
    assert_eq!(files::load(place.path("grey.dsc")).unwrap().info().preprocess.mean, [0.1307]);
    place
        .run(&["predict", "grey.safetensors", "grey.png", "--mean", "1,2,3"])
        .refuses(2, "error: mean has 3 values, the network takes 1 channels");
}

#[test]
fn oblong_networks_take_images_of_any_shape() {
    let place = Place::new();
    files::save(&quarter(Shape::new(3, 48, 192)), place.path("wide.safetensors"), &SaveOptions::default()).unwrap();
    picture(3, [100, 300]).save(place.path("wide.png")).unwrap();
    for more in [&[][..], &["--resize", "48,192"], &["--resize", "48x200", "--crop", "48,192"]] {
        let found = place.json(&[&["predict", "wide.safetensors", "wide.png"], more].concat());
        assert_eq!(found[0]["top"][0]["index"], 3, "{more:?}");
    }
    // Nobody finds out by the file that was written.
    for (command, more) in [("predict", &["wide.png"][..]), ("export", &["-o", "small.dsc"])] {
        place
            .run(&[&[command, "wide.safetensors", "--crop", "48"], more].concat())
            .refuses(2, "error: images become 48x48 (--resize, --crop), `quarter` takes 48x192");
    }
    let ran = place.run(&[
        "export",
        "wide.safetensors",
        "--resize",
        "50,200",
        "--crop",
        "48,192",
        "-o",
        "cropped.safetensors",
    ]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let kept = files::load(place.path("cropped.safetensors")).unwrap().info().preprocess.clone();
    assert_eq!((kept.resize, kept.crop), (Some(graph::Resize::Exact([50, 200])), Some([48, 192])));
}

#[test]
fn a_small_file_of_a_large_image_is_no_bomb() {
    let place = Place::new();
    place.quarter();
    RgbImage::from_pixel(60_000, 1, Rgb([9; 3])).save(place.path("thin.png")).unwrap();
    assert!(Path::new(&place.path("thin.png")).metadata().unwrap().len() < 2000);
    let ran = place.run(&["predict", "quarter.safetensors", "thin.png", "--top", "1"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}
