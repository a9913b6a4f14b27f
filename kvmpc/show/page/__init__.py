"""A result as a page to mail: one HTML file, with charts, that opens offline in any browser.

Needs the extra ``kvmpc[report]`` (matplotlib); nothing else in kvmpc imports this package. Works on
files of any host and knows nothing of KVM.
"""
