//! What an API server would have said of a manifest: nobody says it of a file in a directory.

use crate::{
    annotation::KNOWN,
    manifest::Object,
    object::{EndpointSlice, HEADLESS, Metadata, OWN, OWNER, ObjectName, Service},
};

/// What is to be said of an object, if anything.
pub(super) fn advice(object: &Object) -> Vec<String> {
    match object {
        Object::Service(service) => of_service(service),
        Object::Slice(slice) => of_slice(slice),
        Object::Node(_) => Vec::new(),
    }
}

/// What is to be said of Endpoints.
pub(super) fn of_endpoints(name: &ObjectName) -> String {
    format!(
        "endpoints {name} are not read: an EndpointSlice with the label {OWNER} is needed, which a cluster's \
         controller would have made of them"
    )
}

fn of_service(service: &Service) -> Vec<String> {
    let (name, spec) = (service.metadata.object_name(), &service.spec);
    let mut notices = annotations(&service.metadata);
    let is_empty = spec.cluster_ip.as_deref().unwrap_or_default().is_empty();
    if is_empty && spec.cluster_ips.is_empty() && spec.kind.as_deref() != Some("ExternalName") {
        notices.push(format!(
            "service {name} has no spec.clusterIP, and no API server gives it one here: it has no address in \
             the cluster"
        ));
    }
    notices
}

fn of_slice(slice: &EndpointSlice) -> Vec<String> {
    let name = slice.metadata.object_name();
    let mut notices = Vec::new();
    match slice.address_type.as_str() {
        "IPv4" | "IPv6" => {}
        "" => notices.push(format!(
            "endpoint slice {name} has no addressType (IPv4 or IPv6): it is not used"
        )),
        kind => notices.push(format!(
            "endpoint slice {name} has the addressType {kind:?}: only IPv4 and IPv6 are used"
        )),
    }
    let labels = &slice.metadata.labels;
    if labels.get(OWNER).is_none_or(str::is_empty) && !labels.contains(HEADLESS) {
        notices
            .push(format!("endpoint slice {name} has no label {OWNER}: it belongs to no service"));
    }
    notices
}

/// Annotations that begin as ours do, and are none.
fn annotations(metadata: &Metadata) -> Vec<String> {
    let ours = metadata.annotations.names().filter(|name| name.starts_with(OWN));
    let unknown = ours.filter(|name| !KNOWN.contains(name));
    let say = |name| {
        format!(
            "service {}: there is no annotation {name}: it is not used ({})",
            metadata.object_name(),
            KNOWN.join(", ")
        )
    };
    unknown.map(say).collect()
}
