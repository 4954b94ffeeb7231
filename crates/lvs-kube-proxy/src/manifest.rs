//! Kubernetes objects as text: YAML (and so JSON) manifests, any number of documents in one file.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, de::DeserializeOwned};

use crate::object::{EndpointSlice, Metadata, Node, ObjectName, Service};

/// The namespace of objects that do not say theirs, as with kubectl.
const DEFAULT_NAMESPACE: &str = "default";

/// An object that matters to a service proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    Slice(EndpointSlice),
    /// A Node.
    Node(Node),
}

/// What is in a text.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    pub(crate) objects: Vec<Object>,
    /// Endpoints of before there were EndpointSlices, of which only a cluster makes something.
    pub(crate) endpoints: Vec<ObjectName>,
}

/// Reads manifests. Objects of other kinds are left out, and so are empty documents; a `List` is
/// what it holds.
///
/// # Errors
///
/// The text is not YAML. Nothing of it is used then. A field that is not of the type that it has in
/// Kubernetes costs that field.
pub(crate) fn manifests(text: &str) -> Result<Manifests, ManifestError> {
    let mut found = Manifests::default();
    for (line, document) in documents(text) {
        parse_document(document, &mut found).map_err(|error| {
            // Once more, with as many lines before it as there are in the file.
            let whole = "\n".repeat(line - 1) + document;
            let error = parse_document(&whole, &mut Manifests::default()).err().unwrap_or(error);
            let reason = match line {
                1 => error.to_string(),
                _ => format!("document that begins on line {line}: {error}"),
            };
            ManifestError { reason }
        })?;
    }
    Ok(found)
}

/// The objects of [`manifests`].
#[cfg(test)]
pub(crate) fn parse(text: &str) -> Result<Vec<Object>, ManifestError> {
    manifests(text).map(|found| found.objects)
}

/// Why a manifest cannot be read, with line and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestError {
    reason: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ManifestError {}

/// The documents of a file, each with the number of its first line.
pub(crate) fn documents(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_marker = |line: &str| {
        line.strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\n', '\r']))
    };
    let mut starts = vec![(1, 0)];
    let mut offset = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if is_marker(line) {
            starts.push((number, offset));
        }
        offset += line.len();
    }
    let ends: Vec<_> = starts.iter().skip(1).map(|(_, start)| *start).chain([text.len()]).collect();
    starts.into_iter().zip(ends).map(move |((line, start), end)| (line, &text[start..end]))
}

fn parse_document(text: &str, found: &mut Manifests) -> Result<(), serde_saphyr::Error> {
    // The kind is looked up first: a value that is kept until its kind is known loses its place.
    let kind = match kind(text) {
        Some(kind) => Cow::Borrowed(kind),
        None => Cow::Owned(read::<Option<Head>>(text)?.unwrap_or_default().kind),
    };
    match &*kind {
        "Service" => Document::Service(read(text)?).collect(found),
        "EndpointSlice" => Document::EndpointSlice(read(text)?).collect(found),
        "Node" => Document::Node(read(text)?).collect(found),
        "Endpoints" => Document::Endpoints(read(text)?).collect(found),
        "List" => read::<List<Document>>(text)?.collect(found, |item| item),
        // As an API server answers, with items that do not say what they are.
        "ServiceList" => read::<List<_>>(text)?.collect(found, Document::Service),
        "EndpointSliceList" => read::<List<_>>(text)?.collect(found, Document::EndpointSlice),
        "NodeList" => read::<List<_>>(text)?.collect(found, Document::Node),
        "EndpointsList" => read::<List<_>>(text)?.collect(found, Document::Endpoints),
        _ => {}
    }
    Ok(())
}

/// The kind, where it stands on a line of its own, as it almost always does. To find it like this
/// takes half of the time.
fn kind(text: &str) -> Option<&str> {
    let kind = text.lines().find_map(|line| line.strip_prefix("kind: "))?.trim();
    let is_plain = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_plain.then_some(kind)
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    // A list of tens of thousands is one that somebody has. But no text has more values than
    // characters, unless an alias repeats them: a few of these, one in the other, come to millions.
    let most = text.len().saturating_mul(4).saturating_add(1_000);
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: most,
            max_nodes: most,
            max_total_scalar_bytes: most,
        },
    };
    serde_saphyr::from_str_with_options(text, options)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    kind: String,
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct List<T> {
    #[serde(default = "Vec::new", deserialize_with = "crate::object::or_default")]
    items: Vec<T>,
}

impl<T> List<T> {
    fn collect(self, found: &mut Manifests, document: impl Fn(T) -> Document) {
        self.items.into_iter().for_each(|item| document(item).collect(found));
    }
}

/// An object of which only the name is read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(tag = "kind")]
enum Document {
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Node(Box<Node>),
    Endpoints(Box<Named>),
    #[serde(other)]
    Other,
}

impl Document {
    fn collect(self, found: &mut Manifests) {
        let namespaced = |metadata: &mut Metadata| {
            if metadata.namespace.is_empty() {
                DEFAULT_NAMESPACE.clone_into(&mut metadata.namespace);
            }
        };
        match self {
            Self::Service(mut service) => {
                namespaced(&mut service.metadata);
                found.objects.push(Object::Service(*service));
            }
            Self::EndpointSlice(mut slice) => {
                namespaced(&mut slice.metadata);
                // What an API server fills in, where a missing value means something else.
                for port in &mut slice.ports {
                    port.name.get_or_insert_default();
                }
                found.objects.push(Object::Slice(*slice));
            }
            Self::Endpoints(mut endpoints) => {
                namespaced(&mut endpoints.metadata);
                found.endpoints.push(endpoints.metadata.object_name());
            }
            Self::Node(node) => found.objects.push(Object::Node(*node)),
            Self::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_what_is_not_ours() {
        let objects = parse(
            "\
# A comment, then an empty document.
---
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.0.0.185
  ports: [{port: 80}]
  externalIPs: null
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
data: {kind: Service}
---
kind: List
items:
- kind: EndpointSlice
  metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports: [{name: '', port: 8080}]
  endpoints: null
- {kind: Pod}
- kind: Node
  metadata: {name: node-a}
",
        )
        .unwrap();
        let [Object::Service(service), Object::Slice(slice), Object::Node(node)] = &objects[..]
        else {
            panic!("{objects:?}")
        };
        assert_eq!(service.metadata.object_name().to_string(), "default/web");
        assert_eq!(service.spec.cluster_ip.as_deref(), Some("10.0.0.185"));
        assert_eq!(slice.metadata.object_name().to_string(), "shop/web-1");
        assert_eq!(slice.ports[0].name.as_deref(), Some(""));
        assert_eq!(node.metadata.name, "node-a");
    }

    #[test]
    fn the_kind_in_any_form_and_labels_that_matter() {
        for head in
            ["kind: Service", "kind: Service ", "\"kind\": 'Service'", "kind: !!str Service"]
        {
            let text = format!(
                "metadata: {{name: web, labels: {{app: [1], {}: other}}, annotations: null}}\n{head}\n\
                 spec:\n  kind: Pod\n",
                crate::object::OTHER_PROXY
            );
            let objects = parse(&text).unwrap();
            let [Object::Service(service)] = &objects[..] else { panic!("{head}: {objects:?}") };
            let labels = [(crate::object::OTHER_PROXY, "other")].into_iter().collect();
            assert_eq!(service.metadata.labels, labels);
        }
    }

    #[test]
    fn lists_as_an_api_server_answers_them() {
        let Manifests { objects, endpoints } = manifests(
            "\
kind: ServiceList
items:
- metadata: {name: web, namespace: shop}
---
kind: EndpointSliceList
items:
- metadata: {name: web-1, namespace: shop}
  ports: [{port: 80}]
---
{kind: NodeList, items: [{metadata: {name: node-a}}]}
---
{kind: EndpointsList, items: null}
---
{kind: Endpoints, metadata: {name: web}}
",
        )
        .unwrap();
        let [Object::Service(service), Object::Slice(slice), Object::Node(node)] = &objects[..]
        else {
            panic!("{objects:?}")
        };
        assert_eq!(service.metadata.object_name().to_string(), "shop/web");
        assert_eq!(slice.ports[0].name.as_deref(), Some(""), "as an API server fills it in");
        assert_eq!(node.metadata.name, "node-a");
        assert_eq!(endpoints, [ObjectName::new("default", "web")]);
    }

    #[test]
    fn an_error_says_where() {
        let text = "kind: Pod\n---\nkind: Service\nspec:\n  ports: [{port: 80, port: 81}]\n";
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains("begins on line 2") && error.contains("line 5"), "{error}");
        assert!(parse("kind: Service\n  spec: {").is_err());
        assert!(parse("just a word").is_err());
        assert_eq!(parse("").unwrap(), []);
    }

    /// A text of some hundred bytes that comes to millions of values by aliases costs nothing. What has
    /// some aliases is read.
    #[test]
    fn aliases_that_repeat_each_other() {
        let mut text = "kind: Service\na: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for (name, before) in "bcdefghi".chars().zip("abcdefgh".chars()) {
            let all = vec![format!("*{before}"); 9].join(", ");
            text += &format!("{name}: &{name} [{all}]\n");
        }
        let begin = std::time::Instant::now();
        assert!(parse(&text).is_err());
        assert!(begin.elapsed() < std::time::Duration::from_secs(60));
        let text = "kind: Service\nmetadata: {name: &n web, namespace: *n}\n";
        let Object::Service(service) = parse(text).unwrap().remove(0) else { panic!() };
        assert_eq!(service.metadata.object_name().to_string(), "web/web");
    }

    #[test]
    fn a_long_file() {
        let text: String = (0..3000)
            .map(|number| format!("---\nkind: Service\nmetadata: {{name: s{number}}}\n"))
            .collect();
        assert_eq!(parse(&text).unwrap().len(), 3000);
    }

    #[test]
    fn json_is_yaml() {
        let text = r#"{"kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": null}}"#;
        assert_eq!(parse(text).unwrap().len(), 1);
    }
}
