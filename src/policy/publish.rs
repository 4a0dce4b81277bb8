//! The policy in force: workers load it once a batch, the control thread swaps it whole.
