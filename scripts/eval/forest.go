package main

import (
	"math"
	"math/rand/v2"
)

// forest is an isolation forest (Liu, Ting and Zhou, 2008): trees that part samples at
// random, in which what is odd stands near the root.
type forest struct {
	trees  []*node
	sample int
}

type node struct {
	feature     int
	at          float64
	left, right *node
	size        int // of a leaf
}

const (
	forestTrees  = 200
	forestSample = 512
)

func plant(points [][]float64, seed uint64) *forest {
	r := rand.New(rand.NewPCG(seed, 77)) //nolint:gosec // a figure that can be repeated
	f := &forest{sample: min(forestSample, len(points))}
	depth := int(math.Ceil(math.Log2(float64(max(f.sample, 2)))))
	for range forestTrees {
		chosen := make([][]float64, f.sample)
		for i := range chosen {
			chosen[i] = points[r.IntN(len(points))]
		}
		f.trees = append(f.trees, grow(r, chosen, depth))
	}
	return f
}

func grow(r *rand.Rand, points [][]float64, depth int) *node {
	if depth == 0 || len(points) <= 1 {
		return &node{size: len(points)}
	}
	feature := r.IntN(len(points[0]))
	low, high := points[0][feature], points[0][feature]
	for _, p := range points {
		low, high = min(low, p[feature]), max(high, p[feature])
	}
	if low == high {
		return &node{size: len(points)}
	}
	n := &node{feature: feature, at: low + (high-low)*r.Float64()}
	var left, right [][]float64
	for _, p := range points {
		if p[feature] < n.at {
			left = append(left, p)
		} else {
			right = append(right, p)
		}
	}
	n.left, n.right = grow(r, left, depth-1), grow(r, right, depth-1)
	return n
}

// score is 2^(-E(h)/c(n)): near 1 is odd.
func (f *forest) score(p []float64) float64 {
	sum := 0.0
	for _, t := range f.trees {
		n, h := t, 0.0
		for n.left != nil {
			if h++; p[n.feature] < n.at {
				n = n.left
			} else {
				n = n.right
			}
		}
		sum += h + mean(n.size)
	}
	return math.Exp2(-sum / float64(len(f.trees)) / mean(f.sample))
}

// mean is the average depth of an unsuccessful search in a tree of n.
func mean(n int) float64 {
	if n < 2 {
		return 0
	}
	m := float64(n - 1)
	return 2*(math.Log(m)+0.5772156649) - 2*m/float64(n)
}
