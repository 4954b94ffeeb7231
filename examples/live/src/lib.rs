//! Empty: the package consists of the examples.
