//! Where things stand written in a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compiler::yaml::{Document, line_of};
use operator::source::reading::{Reading, read_folder};

/// A folder that was read. Of no folder, nothing stands anywhere.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) reading: Reading,
    texts: BTreeMap<PathBuf, Arc<str>>,
}

/// The field that a sentence of the compiler begins with; none where it begins with no field.
pub(super) fn field_of(message: &str) -> &str {
    let field = message.split_once(": ").map_or("", |(field, _)| field);
    let is_field = field.starts_with("spec.") && !field.contains(char::is_whitespace);
    if is_field { field } else { "" }
}

// === impl Written ===

impl Written {
    /// Reads a folder; its files are called as it is.
    pub(super) fn of(folder: &Path) -> Self {
        let reading = read_folder(&[folder.to_owned()], &Reading::default());
        let texts = reading.texts();
        let texts = texts.map(|(path, text)| (path.to_owned(), text.clone()));
        let texts = texts.collect();
        Self { reading, texts }
    }

    /// `file:line: ` of a field of an object; nothing, when the object is not in the folder.
    pub(super) fn place(&self, kind: &str, namespace: &str, name: &str, field: &str) -> String {
        let document = self.document(kind, namespace, name);
        document.map_or_else(String::new, |document| self.line(document, field))
    }

    /// The same of a port of a Service, `namespace/name`.
    pub(super) fn port(&self, service: &str, port: u16) -> String {
        let found = service
            .split_once('/')
            .and_then(|(namespace, name)| self.document("Service", namespace, name));
        let Some(document) = found else {
            return String::new();
        };
        let ports = document.value["spec"]["ports"].as_array();
        let mut ports = ports.into_iter().flatten();
        let field = match ports.position(|one| one["port"] == port) {
            Some(index) => format!("spec.ports[{index}]"),
            None => "spec.ports".to_owned(),
        };
        self.line(document, &field)
    }

    /// `file:line: ` of a field of a document.
    pub(super) fn line(&self, document: &Document, field: &str) -> String {
        let text = self.texts.get(Path::new(&*document.file));
        let line = text.map_or(document.line, |text| line_of(text, document, field));
        format!("{}:{line}: ", document.file)
    }

    fn document(&self, kind: &str, namespace: &str, name: &str) -> Option<&Document> {
        let mut documents = self.reading.documents();
        documents.find(|document| {
            let key = &document.key;
            document.kind == kind && key.namespace == *namespace && key.name == *name
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_that_is_to_blame_is_what_a_sentence_begins_with() {
        let field = "spec.rules[0].backendRefs[0].name";
        assert_eq!(field_of(&format!("{field}: there is no Service")), field);
        for none in ["ApiRoute a/b comes first", "spec is wrong: x", "status: x"] {
            assert_eq!(field_of(none), "");
        }
    }

    #[test]
    fn a_field_of_the_second_document_of_a_file_has_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let text = "# Two\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n\
                    apiVersion: v1\nkind: Service\nmetadata:\n  name: mail\n  namespace: shop\nspec:\n  \
                    ports:\n  - port: 80\n  - name: x\n    port: 25\n";
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        let written = Written::of(folder.path());
        assert_eq!(*written.reading.problems, []);
        let file = folder.path().join("a.yaml");
        let place = |line: u32| format!("{}:{line}: ", file.display());
        assert_eq!(written.port("shop/mail", 25), place(14));
        assert_eq!(written.port("shop/mail", 26), place(12));
        assert_eq!(written.port("shop/other", 25), "");
        let name = written.place("Service", "shop", "mail", "metadata.name");
        assert_eq!(name, place(9));
        assert_eq!(written.place("Namespace", "", "shop", "kind"), place(3));
    }
}
