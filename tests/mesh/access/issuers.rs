//! Issuers whose keys are fetched, and servers that are asked about tokens.
