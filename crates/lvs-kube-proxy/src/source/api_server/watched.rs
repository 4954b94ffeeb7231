//! Our objects as the crate kube lists and watches them: only what they hold is decoded and kept.

use std::{borrow::Cow, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource,
    core::{ApiResource, DynamicResourceScope, GroupVersionKind},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::object::{EndpointSlice, Metadata, Node, Service};

pub(super) fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// One of our objects.
pub(super) trait Object: DeserializeOwned + Clone + fmt::Debug + Send + 'static {
    fn metadata(&mut self) -> &mut Metadata;
}

impl Object for Service {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

impl Object for EndpointSlice {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

/// A range from which services get their addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceCidr {
    pub(super) metadata: Metadata,
    pub(super) spec: ServiceCidrSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceCidrSpec {
    #[serde(deserialize_with = "crate::object::or_default")]
    pub(super) cidrs: Vec<String>,
}

impl Object for ServiceCidr {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

impl Object for Node {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

/// An object with the metadata that a watch goes by.
#[derive(Clone, Debug)]
pub(super) struct Watched<T> {
    pub(super) object: T,
    metadata: ObjectMeta,
}

impl<'de, T: Object> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = T::deserialize(deserializer)?;
        let Metadata { name, namespace, resource_version, .. } = object.metadata();
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            // Another version of the object in which nothing else has changed is no news.
            resource_version: Some(std::mem::take(resource_version)),
            ..ObjectMeta::default()
        };
        Ok(Self { object, metadata })
    }
}

impl<T> Resource for Watched<T> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
