//! Manifests: files of objects as people write them. Every error names file, line and field.

mod document;
mod mistakes;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

/// How files are called that are read from a directory.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// Stands for standard input.
const STANDARD_INPUT: &str = "-";

/// What is wrong with manifests.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing can be read there.
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// A directory without manifests.
    #[error("{}: no file called *.json, *.yaml or *.yml is in this directory", path.display())]
    Empty { path: PathBuf },
    /// A mistake somewhere.
    #[error("{place}: {reason}")]
    Mistake { place: Place, reason: String },
}

/// A place in a file, and the field that is there.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    file: Arc<str>,
    line: Option<u64>,
    field: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))?;
        match self.field.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.field),
        }
    }
}

/// An object as it stands in a file.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// For example `apps/v1`.
    pub(crate) api_version: String,
    /// For example `Deployment`.
    pub(crate) kind: String,
    /// As given; `None` means the default one, or none for objects outside of namespaces.
    pub(crate) namespace: Option<String>,
    /// Its name.
    pub(crate) name: String,
    /// All of it.
    pub(crate) value: Value,
    origin: Origin,
}

/// Where an object was read from.
#[derive(Debug, Clone)]
struct Origin {
    file: Arc<str>,
    lines: Arc<BTreeMap<String, u64>>,
    /// Path of the object in its document: empty, or `items[3]`.
    root: String,
}

impl Origin {
    /// The place of a field, or of what is around it if the field is not there.
    fn place(&self, field: &str) -> Place {
        let mut path = match (self.root.is_empty(), field.is_empty()) {
            (true, _) => field.to_owned(),
            (false, true) => self.root.clone(),
            (false, false) => format!("{}.{field}", self.root),
        };
        loop {
            let line = self.lines.get(&path).copied();
            if line.is_some() || path.is_empty() {
                return Place { file: self.file.clone(), line, field: field.to_owned() };
            }
            path.truncate(path.rfind(['.', '[']).unwrap_or(0));
        }
    }

    fn mistake(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::Mistake { place: self.place(field), reason: reason.into() }
    }
}

impl Manifest {
    /// The place of one of its fields; of the object itself if the path is empty.
    pub(crate) fn place(&self, field: &str) -> Place {
        self.origin.place(field)
    }
}

/// Reads the manifests at `paths`: files, directories (their files in the order of their names, not
/// those below), or `-` for standard input. Namespaces come first, for the rest to be in.
///
/// # Errors
///
/// The first mistake: nothing is read, no YAML, no object, or an object that is there twice.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Vec<Manifest>, Error> {
    let mut manifests = Vec::new();
    for path in paths {
        for (file, text) in texts(path)? {
            parse(&file.into(), &text, &mut manifests)?;
        }
    }
    refuse_twins(&manifests)?;
    manifests.sort_by_key(|manifest: &Manifest| manifest.kind != "Namespace");
    Ok(manifests)
}

/// Names and texts of the files at a path.
fn texts(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Unreadable { path, source }
    };
    if path.as_os_str() == STANDARD_INPUT {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(unreadable(path))?;
        return Ok(vec![("standard input".to_owned(), text)]);
    }
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(unreadable(path))? {
            let file = entry.map_err(unreadable(path))?.path();
            let extension = file.extension().and_then(|extension| extension.to_str());
            if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) {
                files.push(file);
            }
        }
        if files.is_empty() {
            return Err(Error::Empty { path: path.to_owned() });
        }
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let text = |file: PathBuf| {
        let text = fs::read_to_string(&file).map_err(unreadable(&file))?;
        Ok((file.display().to_string(), text))
    };
    files.into_iter().map(text).collect()
}

fn parse(file: &Arc<str>, text: &str, manifests: &mut Vec<Manifest>) -> Result<(), Error> {
    let at = |line, reason: &str| Error::Mistake {
        place: Place { file: file.clone(), line, field: String::new() },
        reason: reason.to_owned(),
    };
    if let Some((line, reason)) = mistakes::comment(text) {
        return Err(at(Some(line), reason));
    }
    let documents =
        document::read(text).map_err(|error| match mistakes::explain(text, error.line) {
            Some((line, reason)) => at(Some(line), reason),
            None => at(error.line, &error.reason),
        })?;
    for document in documents {
        let origin =
            Origin { file: file.clone(), lines: Arc::new(document.lines), root: String::new() };
        if document.value["kind"] != "List" {
            manifests.push(object(document.value, origin)?);
            continue;
        }
        let items = document.value["items"].as_array().cloned().unwrap_or_default();
        for (i, item) in items.into_iter().enumerate() {
            manifests.push(object(item, Origin { root: format!("items[{i}]"), ..origin.clone() })?);
        }
    }
    Ok(())
}

fn object(value: Value, origin: Origin) -> Result<Manifest, Error> {
    if !value.is_object() {
        let reason = "an object is a mapping with apiVersion, kind and metadata";
        return Err(origin.mistake("", reason));
    }
    let text = |path: &'static str, example: &str| {
        let field = path.split('.').fold(&value, |value, field| &value[field]);
        match field {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            Value::Null => Err(origin.mistake(path, format!("is missing; for example {example}"))),
            other => Err(origin.mistake(path, format!("is {other}, not a text such as {example}"))),
        }
    };
    let api_version = text("apiVersion", "v1")?;
    let kind = text("kind", "Service")?;
    let name = text("metadata.name", "web")?;
    let namespace = match &value["metadata"]["namespace"] {
        Value::Null => None,
        _ => Some(text("metadata.namespace", "default")?),
    };
    Ok(Manifest { api_version, kind, namespace, name, value, origin })
}

/// Refuses an object that is there twice: one would silently replace the other.
fn refuse_twins(manifests: &[Manifest]) -> Result<(), Error> {
    let mut seen: BTreeMap<(&str, &str, &str, &str), &Manifest> = BTreeMap::new();
    for manifest in manifests {
        let group = manifest.api_version.split_once('/').map_or("", |(group, _)| group);
        let namespace = manifest.namespace.as_deref().unwrap_or("default");
        let key = (group, manifest.kind.as_str(), namespace, manifest.name.as_str());
        if let Some(first) = seen.insert(key, manifest) {
            let mut other = first.place("metadata.name");
            other.field.clear();
            let reason = format!(
                "{} {namespace}/{} is already at {other}; a name is given once for each kind and namespace",
                manifest.kind, manifest.name
            );
            return Err(manifest.origin.mistake("metadata.name", reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n";

    fn parsed(text: &str) -> Result<Vec<Manifest>, String> {
        let mut manifests = Vec::new();
        parse(&"a.yaml".into(), text, &mut manifests).map_err(|error| error.to_string())?;
        refuse_twins(&manifests).map_err(|error| error.to_string())?;
        Ok(manifests)
    }

    #[test]
    fn objects_know_their_places() {
        let text = format!("{SERVICE}spec:\n  ports:\n  - port: 80\n");
        let manifest = parsed(&text).unwrap().remove(0);
        assert_eq!(
            manifest.place("spec.ports[0].port").to_string(),
            "a.yaml:7: spec.ports[0].port"
        );
        assert_eq!(manifest.place("spec.type").to_string(), "a.yaml:5: spec.type");
        assert_eq!(manifest.place("").to_string(), "a.yaml:1");
        let list = "kind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: p}\n";
        let pod = parsed(list).unwrap().remove(0);
        assert_eq!(pod.place("kind").to_string(), "a.yaml:4: kind");
    }

    #[test]
    fn mistakes_name_file_line_field_and_what_is_accepted() {
        for (text, expected) in [
            (
                "kind: Service\nmetadata: {name: a}\n",
                "a.yaml:1: apiVersion: is missing; for example v1",
            ),
            ("apiVersion: v1\nkind: 7\n", "a.yaml:2: kind: is 7, not a text such as Service"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {}\n",
                "a.yaml:3: metadata.name: is missing; for example web",
            ),
            ("- a\n", "a.yaml:1: an object is a mapping with apiVersion, kind and metadata"),
            ("a: 1\n\tb: 1\n", "a.yaml:2: a tab can't indent in YAML: use spaces"),
            (
                &format!("{SERVICE}---\n{SERVICE}"),
                "a.yaml:9: metadata.name: Service default/web is already at a.yaml:4; a name is given once for each kind and namespace",
            ),
        ] {
            assert_eq!(parsed(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn directories_are_read_in_order_and_namespaces_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let load = || load(&[directory.path().to_owned()]);
        write("notes.txt", "a: [");
        assert!(matches!(load(), Err(Error::Empty { .. })));
        write("b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n");
        write("a.yaml", SERVICE);
        let names: Vec<String> =
            load().unwrap().into_iter().map(|manifest| manifest.name).collect();
        assert_eq!(names, ["team", "web"]);
        let missing = super::load(&["/does/not/exist".into()]).unwrap_err().to_string();
        assert!(missing.starts_with("/does/not/exist: "), "{missing}");
    }
}
