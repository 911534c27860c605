//! What a newcomer gets wrong, and what is answered: every command of `mistakes.txt` is run, and its status and all that it
//! prints are compared with the text after it. `DSCONV_BLESS=1` writes the file anew.

use std::fmt::Write as _;
use std::path::Path;

use model::{Model, Policy, SaveOptions};

use super::{Place, Ran, tiny};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mistakes/mistakes.txt");

/// A section of the file: its heading, the command, and what it answers.
struct Case {
    title: String,
    command: String,
    answer: String,
}

fn cases(text: &str) -> Vec<Case> {
    let sections = text.split("\n## ").skip(1);
    let case = |section: &str| {
        let (title, rest) = section.split_once("\n$ ").expect("a command");
        let (command, answer) = rest.split_once('\n').unwrap_or((rest, ""));
        Case { title: title.to_owned(), command: command.to_owned(), answer: answer.trim_end().to_owned() }
    };
    sections.map(case).collect()
}

/// A folder of what a newcomer has: a float network, quantized ones, pictures, and files that are no good.
fn place() -> Place {
    let place = Place::new();
    let quantized = tiny().quantize(&Policy::default()).unwrap();
    files::save(&quantized, place.path("q.safetensors"), &SaveOptions::EXACT).unwrap();
    let dsc = model::dsc::write(&quantized, &model::dsc::Options::EXACT).unwrap();
    std::fs::write(place.path("q.dsc"), &dsc).unwrap();

    let mut damaged = dsc.clone();
    let at = dsc.len() / 2;
    damaged[at] ^= 1;
    std::fs::write(place.path("damaged.dsc"), damaged).unwrap();
    std::fs::write(place.path("half.dsc"), &dsc[..dsc.len() / 2]).unwrap();
    let whole = std::fs::read(place.path("q.safetensors")).unwrap();
    std::fs::write(place.path("half.safetensors"), &whole[..whole.len() / 2]).unwrap();
    let mut damaged = whole.clone();
    let at = whole.len() - 9;
    damaged[at] ^= 4;
    std::fs::write(place.path("damaged.safetensors"), damaged).unwrap();
    place.write("empty.dsc", "");
    let mut weights = tiny().weights().clone();
    weights.get_mut("layer1.0.bn1.running_var").unwrap().data_mut()[2] = -1.0;
    let negative = Model::float(tiny().graph().clone(), weights, tiny().info().clone()).unwrap();
    files::save(&negative, place.path("negative.safetensors"), &SaveOptions::default()).unwrap();
    place.write("notes.txt", "a text\n");
    place.write("notes.png", "a text\n");
    place.write("pictures.zip", "PK\x03\x04");

    let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, 99]));
    for folder in ["empty", "flat", "three/a", "three/b", "three/c", "synsets/n01440764", "synsets/n01443537", "texts"]
    {
        std::fs::create_dir_all(place.path(folder)).unwrap();
    }
    for file in ["texts/1.png", "texts/2.png"] {
        place.write(file, "a text\n");
    }
    for file in [
        "picture.png",
        "flat/1.png",
        "flat/2.png",
        "three/a/1.png",
        "three/b/1.png",
        "three/c/1.png",
        "synsets/n01440764/1.png",
        "synsets/n01443537/1.png",
    ] {
        picture.save(place.path(file)).unwrap();
    }
    for entry in std::fs::read_dir(Path::new(FILE).parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "onnx") {
            std::fs::copy(&path, place.path(path.file_name().unwrap().to_str().unwrap())).unwrap();
        }
    }
    place.write("mine.toml", "model = \"tiny.safetensors\"\n[data]\nlimit = 64\neval_limit = 32\n");
    place.write("typo.toml", "model = \"tiny.safetensors\"\n[quantise]\nbits = 3\n");
    place.write("lost.toml", "model = \"tiny.safetensors\"\n[data]\nadapt = \"~/photos\"\n");
    place.write("empty.toml", "# nothing yet\n");
    let rules = |rules: &str| format!("model = \"tiny.safetensors\"\n{rules}");
    let rule = "\n[[quantize.rules]]\nlayers = \"conv1\"\n";
    place.write("both.toml", &rules(&format!("{rule}bits = 8\nskip = true\n")));
    place.write("later.toml", &rules(&format!("{rule}skip = true\n{rule}bits = 8\n")));
    place.write("image.toml", &rules("[quantize]\nactivation = false\nimage_bits = 6\n"));
    place.write("chosen.toml", "model = \"labels.onnx\"\n\n[[quantize.rules]]\nlayers = \"*\"\nbits = 8\n");
    place
}

/// Runs a command line: `NAME=VALUE` before `dsconv` sets a variable, quotes hold a word together.
fn run(place: &Place, line: &str) -> Ran {
    let mut words: Vec<String> = Vec::new();
    for (i, part) in line.split('\'').enumerate() {
        match i % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    let at = words.iter().position(|word| word == "dsconv").expect("a dsconv command");
    let args: Vec<&str> = words[at + 1..].iter().map(String::as_str).collect();
    let mut command = place.command(&args);
    let home = place.folder.path();
    command.env("HOME", home).env("XDG_CACHE_HOME", home.join("cache")).env_remove("DSCONV_KERNEL");
    for (name, value) in words[..at].iter().filter_map(|word| word.split_once('=')) {
        command.env(name, value);
    }
    command.output().unwrap().into()
}

/// What was printed and the status; what differs from machine to machine is left out.
fn answer(place: &Place, ran: &Ran) -> String {
    let folder = place.folder.path().canonicalize().unwrap();
    let mut text = String::new();
    for stream in [&ran.out, &ran.err] {
        let plain = stream.replace(&folder.display().to_string(), "PLACE");
        text += &plain.replace(&place.folder.path().display().to_string(), "PLACE");
    }
    let kernels: Vec<&str> = runtime::kernels().into_iter().map(runtime::KernelName::as_str).collect();
    let text = text.replace(&kernels.join(", "), "KERNELS");
    let lines: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let status = ran.code.map_or("killed".to_owned(), |code| code.to_string());
    format!("{}\n[status {status}]", lines.trim_end())
}

#[test]
fn mistakes_are_answered() {
    let text = std::fs::read_to_string(FILE).unwrap();
    let cases = cases(&text);
    let head = text.split("\n## ").next().unwrap();
    assert!(cases.len() >= 40, "{}", cases.len());
    let place = place();
    let (mut written, mut differ) = (head.to_owned(), Vec::new());
    for Case { title, command, answer: expected } in &cases {
        let ran = run(&place, command);
        let found = answer(&place, &ran);
        let _ = write!(written, "\n## {title}\n$ {command}\n{found}\n");
        assert!(!found.contains("panicked") && ran.code.is_some(), "{command}: {found}");
        if found != *expected {
            differ.push(format!("{title}\n$ {command}\n--- expected\n{expected}\n--- found\n{found}"));
        }
    }
    if std::env::var_os("DSCONV_BLESS").is_some() {
        std::fs::write(FILE, written).unwrap();
        return;
    }
    assert!(differ.is_empty(), "{}\n\n`DSCONV_BLESS=1` takes them over", differ.join("\n\n"));
}
