//! What the examples share: pods, pages and printed steps.
