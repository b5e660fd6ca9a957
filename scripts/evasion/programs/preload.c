// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// A library that is loaded because the environment says so.
int vedette_preloaded = 1;
