//! What the tests of readable forms share, those of ipvs-table too.

use std::fmt::Debug;

use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

/// A value survives in JSON and YAML.
pub(crate) fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    value: &T,
) -> Result<(), TestCaseError> {
    let json = serde_json::to_string(value).unwrap();
    match serde_json::from_str::<T>(&json) {
        Ok(read) => prop_assert_eq!(&read, value, "{}", json),
        Err(error) => return Err(TestCaseError::fail(format!("{error} in {json}"))),
    }
    let yaml = serde_saphyr::to_string(value).unwrap();
    match serde_saphyr::from_str::<T>(&yaml) {
        Ok(read) => prop_assert_eq!(&read, value, "{}", yaml),
        Err(error) => return Err(TestCaseError::fail(format!("{error} in {yaml}"))),
    }
    Ok(())
}
