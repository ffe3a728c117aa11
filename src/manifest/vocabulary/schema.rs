//! The JSON Schema of a manifest, for editors.
//!
//! Draft 7, which language servers of YAML have supported longest. It accepts what the parser accepts,
//! old spellings included, and knows nothing of what only several fields together can get wrong.

use serde_json::{Map, Value, json};

use super::{Field, Kind, PIPELINE, REQUIRED, Section};

/// The schema.
pub fn schema() -> Value {
    let mut definitions = Definitions::default();
    let mut schema = Map::new();
    schema.insert(
        "$schema".to_owned(),
        json!("http://json-schema.org/draft-07/schema#"),
    );
    schema.insert("title".to_owned(), json!("flowctl/v1 Pipeline"));
    schema.extend(definitions.object(&PIPELINE));
    let all = definitions
        .written
        .into_iter()
        .map(|one| (one.name, one.schema));
    schema.insert("definitions".to_owned(), Value::Object(all.collect()));
    Value::Object(schema)
}

/// The mappings, each written once.
#[derive(Default)]
struct Definitions {
    written: Vec<Definition>,
}

struct Definition {
    section: &'static Section,
    name: String,
    schema: Value,
}

impl Definitions {
    /// A reference to a mapping.
    fn refer(&mut self, section: &'static Section) -> Value {
        let known = |one: &&Definition| std::ptr::eq(one.section, section);
        if let Some(known) = self.written.iter().find(known) {
            return json!({ "$ref": format!("#/definitions/{}", known.name) });
        }
        let name = self.name(section);
        let reference = json!({ "$ref": format!("#/definitions/{name}") });
        let place = self.written.len();
        self.written.push(Definition {
            section,
            name,
            schema: Value::Null,
        });
        let object = self.object(section);
        self.written[place].schema = Value::Object(object);
        reference
    }

    /// A name that no other has.
    fn name(&self, section: &Section) -> String {
        let words = section
            .what
            .trim_start_matches("a ")
            .trim_start_matches("an ");
        let plain: String = words
            .chars()
            .filter(|c| *c != '`')
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let taken = |name: &str| self.written.iter().any(|one| one.name == name);
        let mut name = plain.clone();
        let mut number = 2;
        while taken(&name) {
            name = format!("{plain}-{number}");
            number += 1;
        }
        name
    }

    fn object(&mut self, section: &'static Section) -> Map<String, Value> {
        let mut properties = Map::new();
        let mut needed = Vec::new();
        for field in section.fields {
            let mut schema = self.property(field);
            properties.insert(field.name.to_owned(), schema.clone());
            let others = others(field);
            if field.default == REQUIRED {
                let names = [field.name.to_owned()].into_iter().chain(others.clone());
                let any: Vec<Value> = names.map(|name| json!({ "required": [name] })).collect();
                needed.push(json!({ "anyOf": any }));
            }
            for other in others {
                if let Value::Object(schema) = &mut schema {
                    schema.insert(
                        "description".to_owned(),
                        json!(format!("Another spelling of `{}`.", field.name)),
                    );
                    schema.insert("deprecated".to_owned(), json!(true));
                }
                properties.insert(other, schema.clone());
            }
        }
        let mut object = Map::new();
        object.insert("description".to_owned(), json!(section.text));
        object.insert("type".to_owned(), json!(["object", "null"]));
        object.insert("properties".to_owned(), Value::Object(properties));
        object.insert("additionalProperties".to_owned(), json!(false));
        if !needed.is_empty() {
            object.insert("allOf".to_owned(), Value::Array(needed));
        }
        object
    }

    /// A field, with what an editor shows of it.
    fn property(&mut self, field: &Field) -> Value {
        let schema = self.kind(field.kind);
        let mut property = match schema {
            // What stands beside a reference is not looked at.
            Value::Object(schema) if schema.contains_key("$ref") => {
                let mut around = Map::new();
                around.insert("allOf".to_owned(), json!([schema]));
                around
            }
            Value::Object(schema) => schema,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Map::new(),
        };
        property.insert("description".to_owned(), json!(describe(field)));
        Value::Object(property)
    }

    fn kind(&mut self, kind: Kind) -> Value {
        let single = json!({ "type": ["string", "number", "boolean"] });
        let singles = json!({ "type": ["array", "null"], "items": single });
        let label = json!({
            "type": ["string", "integer"],
            "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        });
        let port = json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65_535 },
            { "type": "string", "minLength": 1 },
        ] });
        match kind {
            Kind::Text | Kind::Word => single,
            Kind::Label => label,
            Kind::Truth => json!({ "enum": [true, false, "true", "false"] }),
            Kind::Whole(least, most) => whole(least, most),
            Kind::Number(least, most) => json!({ "anyOf": [
                { "type": "number", "minimum": least, "maximum": most },
                { "type": "string", "pattern": "^[0-9.]+$" },
            ] }),
            Kind::Duration => json!({ "anyOf": [
                { "type": "string", "pattern": "^\\s*([0-9]+\\s*[A-Za-z\u{b5}]+\\s*)+$" },
                { "const": 0 },
            ] }),
            Kind::Amount => json!({
                "type": ["string", "number"],
                "pattern": "^\\s*[0-9.]+([eE][-+]?[0-9]+|[A-Za-z]{0,2})\\s*$",
            }),
            Kind::Port => port,
            Kind::Octal => json!({ "type": ["string", "integer"], "pattern": "^(0o)?[0-7]{1,4}$" }),
            Kind::Choice(words, old) => choice(words, old),
            Kind::Texts => singles,
            Kind::TextsOrOne => json!({ "anyOf": [singles, single] }),
            Kind::WholeNumbers(least, most) => {
                let one = whole(least, most);
                json!({ "anyOf": [{ "type": "array", "items": one }, one] })
            }
            Kind::Map => json!({
                "type": ["object", "null"],
                "additionalProperties": { "type": ["string", "number", "boolean", "null"] },
            }),
            Kind::Section(section) => self.refer(section),
            Kind::Sections(section) => {
                json!({ "type": ["array", "null"], "items": self.refer(section) })
            }
            Kind::WordOr(words, old, section) => {
                json!({ "anyOf": [choice(words, old), self.refer(section)] })
            }
            Kind::PortOr(section) => json!({ "anyOf": [port, self.refer(section)] }),
            Kind::PortsOr(section) => json!({
                "type": ["array", "null"],
                "items": { "anyOf": [port, self.refer(section)] },
            }),
            Kind::LabelsOr(section) => {
                let items = json!({ "anyOf": [label, self.refer(section)] });
                json!({ "anyOf": [{ "type": ["array", "null"], "items": items }, label] })
            }
            Kind::TextsOr(section) => json!({ "anyOf": [singles, self.refer(section)] }),
            Kind::Anything => json!({}),
            Kind::Unused => json!({ "deprecated": true }),
        }
    }
}

fn whole(least: u64, most: u64) -> Value {
    json!({ "anyOf": [
        { "type": "integer", "minimum": least, "maximum": most },
        { "type": "string", "pattern": "^[0-9]+$" },
    ] })
}

fn choice(words: &[&str], old: &[&str]) -> Value {
    if old.is_empty() {
        return json!({ "enum": words });
    }
    // `no` and `false` are truth values to some readers of YAML.
    let mut old: Vec<Value> = old.iter().map(|word| json!(word)).collect();
    if old.contains(&json!("false")) {
        old.push(json!(false));
    }
    json!({ "anyOf": [
        { "enum": words },
        { "enum": old, "deprecated": true, "description": "an old spelling" },
    ] })
}

/// The other spellings of a field, and the camelCase forms of all.
fn others(field: &Field) -> Vec<String> {
    let mut others: Vec<String> = field.others.iter().map(|name| (*name).to_owned()).collect();
    for name in [field.name].iter().chain(field.others) {
        let camel = camel_case(name);
        if camel != field.name && !others.contains(&camel) {
            others.push(camel);
        }
    }
    others
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(1);
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    camel
}

/// What an editor shows beside a field.
fn describe(field: &Field) -> String {
    let mut text = field.text.replace("\\|", "|");
    match field.default {
        "" => {}
        REQUIRED => text.push_str("\n\nRequired."),
        default => text.push_str(&format!("\n\nDefault: {default}.")),
    }
    text.push_str(&format!(
        "\n\nAn edit of it {}.\n\nExample: `{}`",
        field.on_edit.as_str(),
        field.example
    ));
    text
}
