//! What only a whole Kubernetes can show: admission, RBAC, tokens, Services, DNS, and pods that come and go.

mod spine;
