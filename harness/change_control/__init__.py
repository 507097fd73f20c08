"""A result and the policy it was judged by as one printable document, in the order of a change control plan."""
