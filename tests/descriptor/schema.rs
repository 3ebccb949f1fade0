//! Just enough of QAPI's schema language to judge a JSON value by a schema in
//! QEMU's source.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Deserializer, Value};

/// The types of a schema, by their names.
pub struct Schema(BTreeMap<String, Value>);

impl Schema {
    /// The types of the schema `name` in QEMU's source and of what it includes.
    pub fn read(source: &Path, name: &str) -> Result<Self> {
        let mut types = BTreeMap::new();
        let mut files = vec![name.to_owned()];
        let mut next = 0;
        while let Some(file) = files.get(next).cloned() {
            next += 1;
            let path = source.join(&file);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            for expression in expressions(&text) {
                let expression = expression.with_context(|| file.clone())?;
                if let Some(more) = expression["include"].as_str() {
                    // Where QEMU's build finds them, whoever includes them.
                    let more = format!("qapi/{more}");
                    if !files.contains(&more) {
                        files.push(more);
                    }
                }
                for kind in ["struct", "enum", "union"] {
                    if let Some(name) = expression[kind].as_str() {
                        types.insert(name.to_owned(), expression.clone());
                    }
                }
            }
        }
        Ok(Self(types))
    }

    /// Whether `value` is of the type `name`.
    pub fn check(&self, name: &str, value: &Value) -> Result<()> {
        match name {
            "str" => ensure!(value.is_string(), "{value} is no string"),
            "bool" => ensure!(value.is_boolean(), "{value} is no truth value"),
            _ => {
                let of = self
                    .0
                    .get(name)
                    .with_context(|| format!("no type {name}"))?;
                if of["enum"].is_string() {
                    let names = of["data"].as_array().context("an enum without data")?;
                    let plain = |member: &Value| member == value || &member["name"] == value;
                    ensure!(names.iter().any(plain), "{value} is no {name}");
                } else {
                    self.members(name, value)?;
                }
            }
        }
        Ok(())
    }

    /// As [`Self::check`], of a type that is an object.
    fn members(&self, name: &str, value: &Value) -> Result<()> {
        let object = value.as_object().with_context(|| format!("no {name}"))?;
        let mut members = BTreeMap::new();
        self.collect(name, value, &mut members)?;
        for key in object.keys() {
            let known = members
                .keys()
                .any(|known| known.trim_start_matches('*') == key);
            ensure!(known, "{name} has no {key}");
        }
        for (member, of) in members {
            let Some(inner) = object.get(member.trim_start_matches('*')) else {
                ensure!(member.starts_with('*'), "{name} without {member}");
                continue;
            };
            let element = of.get(0).and_then(Value::as_str);
            let plain = of.as_str().or_else(|| of["type"].as_str());
            match (element, inner, plain) {
                (Some(of), Value::Array(list), _) => {
                    list.iter().try_for_each(|inner| self.check(of, inner))
                }
                (None, _, Some(of)) => self.check(of, inner),
                _ => bail!("{inner} is no {of}"),
            }
            .with_context(|| format!("{name}: {member}"))?;
        }
        Ok(())
    }

    /// The members of the object type `name`, those of its base and of the
    /// branch that `value` chooses included.
    fn collect(
        &self,
        name: &str,
        value: &Value,
        members: &mut BTreeMap<String, Value>,
    ) -> Result<()> {
        let of = self
            .0
            .get(name)
            .with_context(|| format!("no type {name}"))?;
        let mut add = |from: &Value| {
            for (key, of) in from.as_object().into_iter().flatten() {
                members.insert(key.clone(), of.clone());
            }
        };
        if of["struct"].is_string() {
            add(&of["data"]);
        }
        add(&of["base"]);
        if let Some(base) = of["base"].as_str() {
            self.collect(base, value, members)?;
        }
        if let Some(by) = of["discriminator"].as_str() {
            let chosen = value[by].as_str().with_context(|| format!("no {by}"))?;
            if let Some(branch) = of["data"][chosen].as_str() {
                self.collect(branch, value, members)?;
            }
        }
        Ok(())
    }
}

/// QAPI is JSON with single quotes, comments and no commas between objects.
fn expressions(text: &str) -> impl Iterator<Item = serde_json::Result<Value>> {
    let bare = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let json = bare.collect::<Vec<_>>().join("\n").replace('\'', "\"");
    let found: Vec<_> = Deserializer::from_str(&json).into_iter().collect();
    found.into_iter()
}
