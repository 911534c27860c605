//! The keys of configs as a JSON Schema, by which editors complete them and mark mistakes.
use serde_json::{Map, Value, json};

use super::{Allowed, Key, defaults, of, value};
use crate::config::ConfigKind;
use crate::error::Result;

/// The most pixels of a side, as [`graph::Preprocess::check`] has it.
const MOST_PIXELS: u32 = 4096;

/// Describes the configs of a command as a JSON Schema (draft 2020-12), with defaults and what each key is.
///
/// # Errors
/// As [`defaults`].
pub fn schema(kind: ConfigKind) -> Result<Value> {
    let values = defaults(kind, "")?;
    let mut root = object(format!("A config of `dsconv {kind}`."));
    for key in of(kind) {
        let mut described = allowed(key);
        described["description"] = key.what.into();
        if let Some(default) = value(&values, key.name).filter(|default| default.as_str() != Some("")) {
            described["default"] = serde_json::to_value(default)?;
        }
        insert(&mut root, key.name, described);
    }
    let required = if kind == ConfigKind::Train { "/properties/model" } else { "" };
    let name = if kind == ConfigKind::Train { "name" } else { "model" };
    if let Some(table) = root.pointer_mut(required) {
        table["required"] = json!([name]);
    }
    if kind == ConfigKind::Train {
        root["required"] = json!(["model"]);
    }
    if let Some(activation) = root.pointer_mut("/properties/quantize/properties/activation") {
        *activation = or_false(activation.take());
    }
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    Ok(root)
}

/// A table without keys.
fn object(description: String) -> Value {
    json!({ "type": "object", "description": description, "properties": {}, "additionalProperties": false })
}

/// Puts a key into its tables, which are made where they are not there.
fn insert(root: &mut Value, name: &str, described: Value) {
    let (tables, last) = name.rsplit_once('.').unwrap_or(("", name));
    let mut table = root;
    for part in tables.split('.').filter(|part| !part.is_empty()) {
        let properties = table["properties"].as_object_mut().expect("a table has properties");
        table = properties.entry(part).or_insert_with(|| object(format!("The table `{part}`.")));
    }
    table["properties"][last] = described;
}

/// The format of an input, or `false` for floats.
fn or_false(table: Value) -> Value {
    json!({ "anyOf": [{ "const": false }, table] })
}

/// The values that a key may have.
fn allowed(key: &Key) -> Value {
    let side = json!({ "type": "integer", "minimum": 1, "maximum": MOST_PIXELS });
    let sides = json!({ "type": "array", "items": side, "minItems": 2, "maxItems": 2 });
    match key.allowed {
        Allowed::From(least) => json!({ "type": "integer", "minimum": least }),
        Allowed::Between(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Allowed::AtLeast0 => json!({ "type": "number", "minimum": 0 }),
        Allowed::Above0 => json!({ "type": "number", "exclusiveMinimum": 0 }),
        Allowed::Part => json!({ "type": "number", "minimum": 0, "exclusiveMaximum": 1 }),
        Allowed::Switch => json!({ "type": "boolean" }),
        Allowed::OneOf(words) => json!({ "enum": words }),
        Allowed::Block => block(&["pixel"]),
        Allowed::InputBlock => block(&["pixel", "image"]),
        Allowed::Text(_) => json!({ "type": "string" }),
        Allowed::List => json!({ "type": "array", "items": { "type": "string" } }),
        Allowed::Size => json!({ "anyOf": [side, sides] }),
        Allowed::SizeOrNone => json!({ "anyOf": [side, sides, { "const": "none" }] }),
        Allowed::Channels { positive } => {
            let number =
                if positive { json!({ "type": "number", "not": { "const": 0 } }) } else { json!({ "type": "number" }) };
            json!({ "type": "array", "items": number, "minItems": 1 })
        }
        Allowed::Tables(_) => json!({ "type": "array", "items": rule() }),
    }
}

/// A number of channels, or one of some words.
fn block(words: &[&str]) -> Value {
    json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "enum": words }] })
}

/// A rule for some layers: [`model::policy::Rule`].
fn rule() -> Value {
    let in_quantize = |name: &str| {
        let key = of(ConfigKind::Distill).into_iter().find(|key| key.name == format!("quantize.{name}"));
        allowed(key.expect("a key of every layer"))
    };
    let table = |names: &[(&str, &str)]| -> Value {
        let properties: Map<String, Value> =
            names.iter().map(|&(name, key)| (name.to_owned(), in_quantize(key))).collect();
        json!({ "type": "object", "properties": properties, "additionalProperties": false })
    };
    let mut rule = table(&[("bits", "bits"), ("block", "block"), ("rule", "rule"), ("scales", "scales")]);
    let input = [("bits", "activation.bits"), ("block", "activation.block"), ("scale", "activation.scale")];
    rule["properties"]["activation"] = or_false(table(&input));
    rule["properties"]["skip"] = json!({ "type": "boolean" });
    rule["properties"]["layers"] = json!({ "type": "string", "description": "a name; `*` and `?` stand for letters" });
    rule["required"] = json!(["layers"]);
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::built_in;
    use crate::keys::template;
    use crate::recipe::{DistillRecipe, TrainRecipe};

    /// Says what of a value a schema does not allow: the words of JSON Schema that [`schema`] uses, and no others.
    fn faults(schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (word, says) in schema.as_object().unwrap() {
            let number = || value.as_f64();
            let right = match word.as_str() {
                "$schema" | "description" | "default" => true,
                "type" => match says.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    other => panic!("{other}"),
                },
                "minimum" => number().is_none_or(|v| v >= says.as_f64().unwrap()),
                "maximum" => number().is_none_or(|v| v <= says.as_f64().unwrap()),
                "exclusiveMinimum" => number().is_none_or(|v| v > says.as_f64().unwrap()),
                "exclusiveMaximum" => number().is_none_or(|v| v < says.as_f64().unwrap()),
                "const" => value == says,
                "enum" => says.as_array().unwrap().contains(value),
                "not" => !faults(says, value, at).is_empty(),
                "anyOf" => says.as_array().unwrap().iter().any(|one| faults(one, value, at).is_empty()),
                "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= says.as_u64().unwrap()),
                "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= says.as_u64().unwrap()),
                "items" => {
                    value.as_array().into_iter().flatten().for_each(|item| found.extend(faults(says, item, at)));
                    true
                }
                "required" => says.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
                "properties" => {
                    for (name, inner) in value.as_object().into_iter().flatten() {
                        found.extend(
                            says.get(name).into_iter().flat_map(|says| faults(says, inner, &format!("{at}.{name}"))),
                        );
                    }
                    true
                }
                "additionalProperties" => {
                    assert_eq!(says, &Value::Bool(false));
                    value
                        .as_object()
                        .is_none_or(|table| table.keys().all(|name| schema["properties"].get(name).is_some()))
                }
                other => panic!("the schema uses `{other}`"),
            };
            if !right {
                found.push(format!("{at}: {word}"));
            }
        }
        found
    }

    fn parses(kind: ConfigKind, text: &str) -> bool {
        match kind {
            ConfigKind::Distill => toml::from_str::<DistillRecipe>(text).is_ok(),
            ConfigKind::Train => toml::from_str::<TrainRecipe>(text).is_ok(),
        }
    }

    #[test]
    fn recipes_and_new_configs_are_what_the_schema_says() {
        for kind in [ConfigKind::Distill, ConfigKind::Train] {
            let schema = schema(kind).unwrap();
            let recipes = built_in::recipes().filter(|name| ConfigKind::of_name(name) == kind);
            // A new config with every example and default in force.
            let new = template(kind, "resnet20", true).unwrap();
            let all: String = new
                .lines()
                .map(|line| match line.strip_prefix("# ") {
                    Some(rest) if rest.contains(" = ") => format!("{rest}\n"),
                    _ => format!("{line}\n"),
                })
                .collect();
            let mut count = 0;
            for (name, text) in
                recipes.map(|name| (name, built_in::recipe(name).unwrap())).chain([("new", all.as_str())])
            {
                let value: toml::Table = toml::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
                let errors = faults(&schema, &serde_json::to_value(value).unwrap(), "");
                assert!(errors.is_empty(), "{name}: {errors:?}");
                count += 1;
            }
            assert!(count > 5, "{count} configs of {kind}");
        }
    }

    #[test]
    fn the_schema_allows_what_the_types_do() {
        let model = |kind| {
            if kind == ConfigKind::Train { "model = { name = \"resnet20\" }\n" } else { "model = \"resnet20\"\n" }
        };
        // (of distill?, line, whether it is right)
        let cases = [
            (true, "quantize.bits = 8", true),
            (true, "quantize.bits = 9", false),
            (true, "quantize.bits = 1", false),
            (true, "quantize.bits = 4.5", false),
            (true, "quantize.bitz = 4", false),
            (true, "quantize.block = \"pixel\"", true),
            (true, "quantize.block = \"row\"", false),
            (true, "quantize.block = 0", false),
            (true, "quantize.rule = \"kl\"", true),
            (true, "quantize.rule = \"best\"", false),
            (true, "quantize.activation = false", true),
            (true, "quantize.activation = true", false),
            (true, "quantize.activation.bits = 3", true),
            (true, "quantize.activation.bits = 0", false),
            (true, "quantize.rules = [{ layers = \"conv*\", bits = 3, activation = { bits = 8 } }]", true),
            (
                true,
                "quantize.rules = [{ layers = \"conv*\", activation = false, skip = false, block = 16, rule = \"l2\" }]",
                true,
            ),
            (true, "quantize.rules = [{ bits = 3 }]", false),
            (true, "quantize.rules = [{ layers = \"conv*\", scales = 3 }]", false),
            (true, "quantize.linear = 1", false),
            (true, "adapt.optimizer = \"adamw\"", true),
            (true, "adapt.optimizer = \"lion\"", false),
            (true, "adapt.features = [\"layer4\"]", true),
            (true, "adapt.features = \"layer4\"", false),
            (true, "image.resize = \"none\"", true),
            (true, "image.resize = [48, 192]", true),
            (true, "image.resize = [48]", false),
            (true, "image.crop = 4097", false),
            (true, "image.order = \"grey\"", true),
            (true, "image.order = \"yuv\"", false),
            (true, "export.floats = \"f16\"", true),
            (true, "export.floats = \"bf16\"", false),
            (false, "train.epochs = 3", true),
            (false, "train.epochs = \"3\"", false),
            (false, "model.width = 0.5", true),
            (false, "model.stem = \"small\"", true),
            (false, "model.stem = \"big\"", false),
            (false, "train.augment.flip = true", true),
            (false, "train.augment.turn = true", false),
        ];
        for (is_distill, line, right) in cases {
            let kind = if is_distill { ConfigKind::Distill } else { ConfigKind::Train };
            let text = match line.starts_with("model.") {
                true => format!("model.name = \"resnet20\"\n{line}\n"),
                false => format!("{}{line}\n", model(kind)),
            };
            let value: toml::Table = toml::from_str(&text).unwrap();
            let by_schema = faults(&schema(kind).unwrap(), &serde_json::to_value(value).unwrap(), "").is_empty();
            assert_eq!((by_schema, parses(kind, &text)), (right, right), "{line}");
        }
        for kind in [ConfigKind::Distill, ConfigKind::Train] {
            assert!(!faults(&schema(kind).unwrap(), &json!({}), "").is_empty(), "a config has a model");
        }
    }
}
