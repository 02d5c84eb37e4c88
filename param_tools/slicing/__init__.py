"""Cutting a layer into slices: one exact rule per layer family, a policy that turns bytes into cuts, a rewriter."""
